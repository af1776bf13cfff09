//! Values as people write them: durations, sizes, addresses and paths that can be "off".

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::jail::UidRange;
use crate::microvm::Rate;

/// What switches a socket off.
const OFF: &str = "off";

/// A duration: `14h`, `1h 30m`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A size in bytes: `64GiB`, `1.5GB`, `512MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanSize(pub u64);

/// A range of users: `2000000000-2000065535`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Users(pub UidRange);

/// Bytes per second, and perhaps a burst: `100MiB`, `100MiB/1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth(pub Rate);

/// Operations per second, and perhaps a burst: `5000`, `5000/20000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(pub Rate);

/// Where a socket listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// There.
    Address(SocketAddr),
}

/// Where a Unix socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketPath {
    /// Nowhere.
    Off,
    /// There.
    Path(PathBuf),
}

/// A text that is not what its field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is expected")]
pub struct Expected(pub &'static str);

/// What the values of one type look like: in errors and in the reference.
trait Form: FromStr<Err = Expected> {
    const EXPECTED: Expected;
    const NAME: &'static str;
}

impl Form for HumanDuration {
    const EXPECTED: Expected =
        Expected("a duration with its unit, such as \"14h\", \"1h 30m\" or \"500ms\",");
    const NAME: &'static str = "duration";
}

impl Form for HumanSize {
    const EXPECTED: Expected =
        Expected("a size with its unit, such as \"64GiB\", \"512MiB\" or \"1.5GB\",");
    const NAME: &'static str = "size";
}

impl Form for Listen {
    const EXPECTED: Expected =
        Expected("\"off\" or an address with its port, such as \"127.0.0.1:9464\",");
    const NAME: &'static str = "address";
}

impl Form for SocketPath {
    const EXPECTED: Expected = Expected(
        "\"off\" or an absolute path of at most 107 bytes, such as \"/run/votive/control.sock\",",
    );
    const NAME: &'static str = "socket path";
}

impl Form for Bandwidth {
    const EXPECTED: Expected = Expected(
        "RATE or RATE/BURST, sizes of at most 1TiB, the burst at least a twentieth of the rate, such as \"100MiB\" or \"100MiB/1GiB\",",
    );
    const NAME: &'static str = "bandwidth";
}

impl Form for Operations {
    const EXPECTED: Expected = Expected(
        "RATE or RATE/BURST, whole numbers, the burst at least a twentieth of the rate, such as \"5000\" or \"5000/20000\",",
    );
    const NAME: &'static str = "operations";
}

impl Form for Users {
    const EXPECTED: Expected = Expected(
        "users FIRST-LAST, from 65536 on and at most 1048576 of them, such as \"2000000000-2000065535\",",
    );
    const NAME: &'static str = "users";
}

impl FromStr for Users {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        text.parse().map(Self).map_err(|_| Self::EXPECTED)
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rate whose parts are read by `read`.
fn rate<T: Form>(text: &str, read: impl Fn(&str) -> Option<u64>) -> Result<Rate, Expected> {
    let (rate, burst) =
        text.split_once('/').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
    let burst = burst.map(|burst| read(burst).ok_or(T::EXPECTED)).transpose()?;
    read(rate).and_then(|rate| Rate::new(rate, burst)).ok_or(T::EXPECTED)
}

impl FromStr for Bandwidth {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        rate::<Self>(text, |part| part.parse().ok().map(|HumanSize(bytes)| bytes)).map(Self)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HumanSize(self.0.per_second()).fmt(f)?;
        self.0.burst().map_or(Ok(()), |burst| write!(f, "/{}", HumanSize(burst)))
    }
}

impl FromStr for Operations {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        rate::<Self>(text, |part| part.parse().ok()).map(Self)
    }
}

impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for HumanDuration {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let duration: SignedDuration = text.trim().parse().map_err(|_| Self::EXPECTED)?;
        Duration::try_from(duration).map(Self).map_err(|_| Self::EXPECTED)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            // Longer than 292 billion years: no duration that was read.
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

impl FromStr for HumanSize {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        // Digits alone are a number of what? They would be read as bytes.
        if !text.ends_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(Self::EXPECTED);
        }
        text.parse::<ByteSize>().map(|size| Self(size.as_u64())).map_err(|_| Self::EXPECTED)
    }
}

impl fmt::Display for HumanSize {
    /// Exact: in the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole =
            units.iter().find(|(_, bits)| self.0 >> bits > 0 && self.0.trailing_zeros() >= *bits);
        match whole {
            Some((unit, bits)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Listen {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            OFF => Ok(Self::Off),
            address => address.parse().map(Self::Address).map_err(|_| Self::EXPECTED),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for SocketPath {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let path = Path::new(text);
        if text == OFF {
            Ok(Self::Off)
        } else if path.is_absolute() && text.len() <= SOCKET_PATH_MAX && !text.contains('\0') {
            Ok(Self::Path(path.to_owned()))
        } else {
            Err(Self::EXPECTED)
        }
    }
}

/// `sun_path` of unix(7) less its NUL.
pub const SOCKET_PATH_MAX: usize = 107;

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Reads a [`Form`] from a string, and tells the string and the form if it is not one.
struct Text<T>(std::marker::PhantomData<T>);

impl<T: Form> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED.0.trim_end_matches(','))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

macro_rules! read_and_written_as_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(std::marker::PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <Self as Form>::NAME.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": <Self as Form>::NAME })
            }
        }
    )*};
}

read_and_written_as_text!(
    Bandwidth,
    HumanDuration,
    HumanSize,
    Listen,
    Operations,
    SocketPath,
    Users
);
