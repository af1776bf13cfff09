//! The paths of the Runtime API.

use crate::http::Span;

/// The version that every path begins with.
const VERSION: &str = "/2018-06-01";

/// A request's method, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
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
        let Some(path) = path.strip_prefix(VERSION) else {
            return Self::NotFound;
        };
        let (wanted, route) = match path {
            "/runtime/invocation/next" => (Method::Get, Self::Next),
            "/ping" => (Method::Get, Self::Ping),
            "/runtime/init/error" => (Method::Post, Self::InitError),
            _ => match invocation(path, bytes) {
                Some(route) => (Method::Post, route),
                None => return Self::NotFound,
            },
        };
        if method == wanted {
            route
        } else {
            Self::MethodNotAllowed(if wanted == Method::Get { "GET" } else { "POST" })
        }
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
