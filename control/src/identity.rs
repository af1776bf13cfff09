//! Who holds a certificate: its role is a URI among the certificate's alternative names.
//!
//! A certificate has exactly one URI that begins with `urn:votive:role:`. None, an unknown one or several are refused, so that
//! nobody's role depends on which of them is read first.

use std::fmt;

#[cfg(test)]
mod tests;

/// What every role's URI begins with.
pub const ROLE_PREFIX: &str = "urn:votive:role:";

/// What a caller may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees what the worker does.
    Observer,
    /// Grants the lease, registers functions and invokes them.
    Orchestrator,
    /// Ends environments by hand.
    Operator,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Observer, Self::Orchestrator, Self::Operator];

    /// Its name, as certificates and commands have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Orchestrator => "orchestrator",
            Self::Operator => "operator",
        }
    }

    /// Whether a holder of this role may make calls that need the other.
    #[must_use]
    pub fn includes(self, needed: Self) -> bool {
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A worker, the channel's server.
    Worker,
    /// A caller.
    Caller(Role),
}

impl Holder {
    /// Every holder.
    pub const ALL: [Self; 4] = [
        Self::Worker,
        Self::Caller(Role::Observer),
        Self::Caller(Role::Orchestrator),
        Self::Caller(Role::Operator),
    ];

    /// Its name, as certificates and folders have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Caller(role) => role.name(),
        }
    }

    /// The URI that its certificate holds.
    #[must_use]
    pub fn uri(self) -> String {
        format!("{ROLE_PREFIX}{}", self.name())
    }

    /// The holder that the URIs of a certificate name. URIs of others are passed over.
    ///
    /// # Errors
    /// No role, several, or one that does not exist.
    pub fn from_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let mut found = None;
        for uri in uris {
            let Some(name) = strip_role_prefix(uri) else { continue };
            if found.is_some() {
                return Err(IdentityError::SeveralRoles);
            }
            let holder = Self::ALL.into_iter().find(|holder| holder.name() == name);
            found = Some(holder.ok_or(IdentityError::UnknownRole)?);
        }
        found.ok_or(IdentityError::NoRole)
    }
}

/// What follows the prefix. A prefix in capitals means the same to others (RFC 8141), so it is no stranger's URI to us: what
/// follows is given, and is then held against the names as they are.
fn strip_role_prefix(uri: &str) -> Option<&str> {
    let (head, tail) = uri.split_at_checked(ROLE_PREFIX.len())?;
    head.eq_ignore_ascii_case(ROLE_PREFIX).then_some(tail)
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a certificate tells nobody's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It names none.
    #[error("the certificate names no role (a URI {ROLE_PREFIX}…)")]
    NoRole,
    /// It names one that does not exist.
    #[error("the certificate names an unknown role")]
    UnknownRole,
    /// It names more than one.
    #[error("the certificate names several roles")]
    SeveralRoles,
    /// It is a worker's where a caller's is needed, or the other way round.
    #[error("the certificate is of role {found}, which is not for this side of the channel")]
    WrongSide {
        /// Whose it is.
        found: Holder,
    },
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
}
