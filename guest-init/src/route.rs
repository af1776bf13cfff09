//! The paths of the Runtime API, the Extensions API, the Telemetry API and the Logs API.

use crate::http::Span;
use crate::telemetry::request::Api;

/// The version that every path of the Runtime API begins with.
const VERSION: &str = "/2018-06-01";
/// That of the Extensions API.
const EXTENSIONS_VERSION: &str = "/2020-01-01";

/// A request's method, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// Any other.
    Other,
}

impl Method {
    /// The method of that name; names are case-sensitive (RFC 9110 section 9.1).
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            _ => Self::Other,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /runtime/invocation/next`
    Next,
    /// `POST /runtime/invocation/{id}/response`, with the place of the id
    Response(Span),
    /// `POST /runtime/invocation/{id}/error`, with the place of the id
    InvocationError(Span),
    /// `POST /runtime/init/error`
    InitError,
    /// `GET /ping`
    Ping,
    /// `POST /extension/register`
    Register,
    /// `GET /extension/event/next`
    ExtensionNext,
    /// `POST /extension/init/error`
    ExtensionInitError,
    /// `POST /extension/exit/error`
    ExtensionExitError,
    /// `PUT /2022-07-01/telemetry`, `PUT /2020-08-15/logs`
    Subscribe(Api),
    /// No such path.
    NotFound,
    /// The path knows only this method.
    MethodNotAllowed(&'static str),
}

impl Route {
    /// The route of a request with this method and target, which must lie in `bytes`.
    #[must_use]
    pub fn of(method: Method, target: &str, bytes: &[u8]) -> Self {
        let path = path_of(target);
        let known = match (path.strip_prefix(VERSION), path.strip_prefix(EXTENSIONS_VERSION)) {
            (Some(path), _) => runtime(path, bytes),
            (_, Some(path)) => extension(path),
            _ => match path {
                "/2022-07-01/telemetry" => Some((Method::Put, Self::Subscribe(Api::Telemetry))),
                "/2020-08-15/logs" => Some((Method::Put, Self::Subscribe(Api::Logs))),
                _ => None,
            },
        };
        match known {
            None => Self::NotFound,
            Some((wanted, route)) if wanted == method => route,
            Some((wanted, _)) => Self::MethodNotAllowed(match wanted {
                Method::Get => "GET",
                Method::Put => "PUT",
                Method::Post | Method::Other => "POST",
            }),
        }
    }
}

fn runtime(path: &str, bytes: &[u8]) -> Option<(Method, Route)> {
    match path {
        "/runtime/invocation/next" => Some((Method::Get, Route::Next)),
        "/ping" => Some((Method::Get, Route::Ping)),
        "/runtime/init/error" => Some((Method::Post, Route::InitError)),
        _ => Some((Method::Post, invocation(path, bytes)?)),
    }
}

fn extension(path: &str) -> Option<(Method, Route)> {
    match path {
        "/extension/register" => Some((Method::Post, Route::Register)),
        "/extension/event/next" => Some((Method::Get, Route::ExtensionNext)),
        "/extension/init/error" => Some((Method::Post, Route::ExtensionInitError)),
        "/extension/exit/error" => Some((Method::Post, Route::ExtensionExitError)),
        _ => None,
    }
}

/// The path of a request target: without the query, and without scheme and authority if they are there.
fn path_of(target: &str) -> &str {
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/"),
        None => target,
    };
    target.split(['?', '#']).next().unwrap_or("")
}

/// `/runtime/invocation/{id}/response` and `/error`.
fn invocation(path: &str, bytes: &[u8]) -> Option<Route> {
    let (id, verb) = path.strip_prefix("/runtime/invocation/")?.split_once('/')?;
    let id = Span::of(id.as_bytes(), bytes);
    match verb {
        "response" => Some(Route::Response(id)),
        "error" => Some(Route::InvocationError(id)),
        _ => None,
    }
}
