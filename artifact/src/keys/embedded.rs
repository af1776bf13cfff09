//! The embedded key service: a file of keys wrapped under a master key, for one machine.
//!
//! `master.key` has the master key, `keys.json` the keys of all names and versions, each wrapped, and a MAC over all of it, so
//! that nobody who can write the file enables a key or puts an old version back as another's. `audit.jsonl` has a line for each
//! use. Keys and states are read anew for each call: what one process disables, no other uses afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::parse_hex;
use crate::keys::audit::{self, AuditRecord, Outcome, now_ms};
use crate::keys::{Answer, Context, DataKey, KeyError, KeyService};
use crate::seal::{Secret, is_name, table};

/// Names of the files in the service's folder.
const MASTER: &str = "master.key";
const KEYS: &str = "keys.json";
const AUDIT: &str = "audit.jsonl";
const LOCK: &str = "lock";

/// The most bytes of the file of keys: some ten thousand versions.
const KEYS_BYTES_MAX: u64 = 4 << 20;

/// What a wrapped data key begins with: the format's version.
const WRAPPED_VERSION: u8 = 1;

/// Bytes of a wrapped data key: version of the format, version of the key, nonce, key, tag.
const WRAPPED_BYTES: usize = 1 + 4 + table::SEAL_BYTES + 32;

/// The embedded key service. It holds no key between calls.
#[derive(Debug)]
pub struct Embedded {
    folder: PathBuf,
}

/// A key, without what is secret about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its name.
    pub key: String,
    /// Whether it can be used.
    pub enabled: bool,
    /// Its versions; the last one wraps, all of them unwrap.
    pub versions: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: BTreeMap<String, Key>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    enabled: bool,
    /// Version 1 first, each sealed under the master key.
    versions: Vec<String>,
}

impl Embedded {
    /// Makes a key service in a new folder, with a master key and no keys.
    ///
    /// # Errors
    /// A folder that has one already, and what the file system says.
    pub fn create(folder: &Path) -> Result<Embedded, KeyError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::File { path, source }
        };
        let new = !folder.exists();
        fs::create_dir_all(folder).map_err(file(folder))?;
        if new {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(file(folder))?;
        }
        let master = folder.join(MASTER);
        let secret = Secret::random()?;
        let text: zeroize::Zeroizing<String> = zeroize::Zeroizing::new(hex(secret.expose()) + "\n");
        let mut options = OpenOptions::new();
        let mut out = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&master)
            .map_err(file(&master))?;
        out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(file(&master))?;
        let service = Embedded { folder: folder.to_owned() };
        let _lock = service.lock()?;
        service.write(&KeyFile::default(), &secret)?;
        drop(_lock);
        Ok(service)
    }

    /// The key service in a folder.
    ///
    /// # Errors
    /// A folder without one, or whose files cannot be used.
    pub fn open(folder: &Path) -> Result<Embedded, KeyError> {
        let service = Embedded { folder: folder.to_owned() };
        service.read()?;
        Ok(service)
    }

    /// Whether a folder has a key service.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(MASTER).exists()
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Exists`], [`KeyError::Name`], and what the file system says.
    pub fn create_key(&self, key: &str) -> Result<(), KeyError> {
        if !is_name(key) {
            return Err(KeyError::Name);
        }
        self.change(key, "CreateKey", |keys, master| {
            if keys.contains_key(key) {
                return Err(KeyError::Exists { key: key.to_owned() });
            }
            let first = new_version(key, 1, master)?;
            keys.insert(key.to_owned(), Key { enabled: true, versions: vec![first] });
            Ok(())
        })
    }

    /// Gives a key a new version, which wraps from now on. What was wrapped with those before is unwrapped as ever.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], and what the file system says.
    pub fn rotate_key(&self, key: &str) -> Result<(), KeyError> {
        self.change(key, "RotateKey", |keys, master| {
            let found = keys.get_mut(key).ok_or(KeyError::NotFound { key: key.to_owned() })?;
            let version = u32::try_from(found.versions.len() + 1).map_err(|_| KeyError::Name)?;
            found.versions.push(new_version(key, version, master)?);
            Ok(())
        })
    }

    /// Disables a key, or enables it.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], and what the file system says.
    pub fn set_enabled(&self, key: &str, enabled: bool) -> Result<(), KeyError> {
        self.change(key, if enabled { "EnableKey" } else { "DisableKey" }, |keys, _| {
            keys.get_mut(key).ok_or(KeyError::NotFound { key: key.to_owned() })?.enabled = enabled;
            Ok(())
        })
    }

    /// All keys.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let (file, _) = self.read()?;
        let info = |(name, key): (&String, &Key)| KeyInfo {
            key: name.clone(),
            enabled: key.enabled,
            versions: u32::try_from(key.versions.len()).unwrap_or(u32::MAX),
        };
        Ok(file.keys.iter().map(info).collect())
    }

    /// Where the audit records are.
    #[must_use]
    pub fn audit_path(&self) -> PathBuf {
        self.folder.join(AUDIT)
    }

    fn generate_now(&self, key: &str, context: &Context) -> Result<DataKey, KeyError> {
        let plain = Secret::random()?;
        let wrapped =
            self.with_key(("GenerateDataKey", key, context), None, |version, under| {
                let mut wrapped = vec![WRAPPED_VERSION];
                wrapped.extend(version.to_le_bytes());
                let aad = wrap_aad(&wrapped, key, context);
                let Ok(nonce) = table::nonce() else { return Ok(None) };
                wrapped.extend(table::seal(under, nonce, &aad, plain.expose()));
                Ok(Some(wrapped))
            })?;
        Ok(DataKey { plain, wrapped })
    }

    fn unwrap_now(&self, key: &str, wrapped: &[u8], context: &Context) -> Result<Secret, KeyError> {
        let call = ("Decrypt", key, context);
        let invalid = || KeyError::InvalidCiphertext { key: key.to_owned() };
        let version = match wrapped {
            [WRAPPED_VERSION, a, b, c, d, ..] if wrapped.len() == WRAPPED_BYTES => {
                u32::from_le_bytes([*a, *b, *c, *d])
            }
            // No version is 0: this is refused, and recorded, like any other that is wrong.
            _ => 0,
        };
        self.with_key(call, Some(version), |_, under| {
            let aad = wrap_aad(&wrapped[..5], key, context);
            let plain = table::open(under, &aad, &wrapped[5..]).ok_or_else(invalid)?;
            Ok(Secret::from_slice(&plain).ok())
        })
    }

    /// Finds the key's version, or its last, lets `act` use it, and records what came of it before anything is returned.
    fn with_key<T>(
        &self,
        (operation, key, context): (&str, &str, &Context),
        version: Option<u32>,
        act: impl FnOnce(u32, &Secret) -> Result<Option<T>, KeyError>,
    ) -> Result<T, KeyError> {
        let (file, master) = self.read()?;
        let mut used = None;
        let result = (|| {
            let found = file.keys.get(key).ok_or(KeyError::NotFound { key: key.to_owned() })?;
            if !found.enabled {
                return Err(KeyError::Disabled { key: key.to_owned() });
            }
            let last = u32::try_from(found.versions.len()).unwrap_or(0);
            let version = version.unwrap_or(last);
            let sealed = (version as usize).checked_sub(1).and_then(|at| found.versions.get(at));
            let invalid = || KeyError::InvalidCiphertext { key: key.to_owned() };
            let sealed = sealed.ok_or_else(invalid)?;
            let under = open_version(key, version, sealed, &master)
                .ok_or_else(|| KeyError::Altered { path: self.folder.join(KEYS) })?;
            used = Some(version);
            act(version, &under)?.ok_or(KeyError::Secret(crate::seal::SecretError::NoEntropy))
        })();
        let outcome = match &result {
            Ok(_) => Outcome::Granted,
            Err(KeyError::Disabled { .. }) => Outcome::Disabled,
            Err(KeyError::NotFound { .. }) => Outcome::NotFound,
            Err(_) => Outcome::InvalidCiphertext,
        };
        self.record(operation, (key, used), context, outcome)?;
        result
    }

    fn record(
        &self,
        operation: &str,
        (key, version): (&str, Option<u32>),
        context: &Context,
        outcome: Outcome,
    ) -> Result<(), KeyError> {
        let record = AuditRecord {
            time_ms: now_ms(),
            operation: operation.to_owned(),
            key: key.to_owned(),
            version,
            context: context.clone(),
            outcome,
        };
        let path = self.audit_path();
        audit::append(&path, &record).map_err(|source| KeyError::File { path, source })
    }

    /// Changes the file of keys, one process at a time.
    fn change(
        &self,
        key: &str,
        operation: &str,
        act: impl FnOnce(&mut BTreeMap<String, Key>, &Secret) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let (mut file, master) = self.read()?;
        act(&mut file.keys, &master)?;
        self.record(operation, (key, None), &Context::new(), Outcome::Granted)?;
        self.write(&file, &master)
    }

    fn lock(&self) -> Result<File, KeyError> {
        let path = self.folder.join(LOCK);
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let locked = opened.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|source| KeyError::File { path, source })
    }

    /// The keys, after their MAC was checked, and the master key.
    fn read(&self) -> Result<(KeyFile, Secret), KeyError> {
        let master = self.read_master()?;
        let path = self.folder.join(KEYS);
        let text = read_limited(&path, KEYS_BYTES_MAX)
            .map_err(|source| KeyError::File { path: path.clone(), source })?;
        let altered = || KeyError::Altered { path: path.clone() };
        let (body, tag) = text.trim_end().split_once('\n').ok_or_else(altered)?;
        let tag = parse_hex::<32>(tag).ok_or_else(altered)?;
        use aws_lc_rs::hmac::{HMAC_SHA256, Key as MacKey, verify};
        let mac = MacKey::new(HMAC_SHA256, mac_key(&master).expose());
        verify(&mac, body.as_bytes(), &tag).map_err(|_| altered())?;
        let file = serde_json::from_str(body).map_err(|_| altered())?;
        Ok((file, master))
    }

    /// Writes the keys so that a crash leaves the old file or the new one.
    fn write(&self, keys: &KeyFile, master: &Secret) -> Result<(), KeyError> {
        use aws_lc_rs::hmac::{HMAC_SHA256, Key as MacKey, sign};
        let path = self.folder.join(KEYS);
        let body = serde_json::to_string(keys).map_err(io::Error::other);
        let written = body.and_then(|body| {
            let mac = MacKey::new(HMAC_SHA256, mac_key(master).expose());
            let tag = sign(&mac, body.as_bytes());
            let mut new = tempfile::NamedTempFile::new_in(&self.folder)?;
            writeln!(new, "{body}\n{}", hex(tag.as_ref()))?;
            new.as_file().sync_all()?;
            new.persist(&path)?;
            File::open(&self.folder)?.sync_all()
        });
        written.map_err(|source| KeyError::File { path, source })
    }

    fn read_master(&self) -> Result<Secret, KeyError> {
        let path = self.folder.join(MASTER);
        let file = |source| KeyError::File { path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(file)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path, mode });
        }
        let text = zeroize::Zeroizing::new(read_limited(&path, 128).map_err(file)?);
        let bytes = parse_hex::<32>(text.trim_end()).map(zeroize::Zeroizing::new);
        let bytes = bytes.ok_or_else(|| KeyError::Altered { path: path.clone() })?;
        Ok(Secret::from_slice(bytes.as_ref())?)
    }
}

impl KeyService for Embedded {
    fn generate<'a>(&'a self, key: &'a str, context: &'a Context) -> Answer<'a, DataKey> {
        Box::pin(async move { self.generate_now(key, context) })
    }

    fn unwrap<'a>(
        &'a self,
        key: &'a str,
        wrapped: &'a [u8],
        context: &'a Context,
    ) -> Answer<'a, Secret> {
        Box::pin(async move { self.unwrap_now(key, wrapped, context) })
    }
}

/// The key of the file's MAC: the master key wraps, and does nothing else.
fn mac_key(master: &Secret) -> Secret {
    crate::seal::derive(master, b"votive key file mac 1")
}

/// The key that wraps versions.
fn version_key(master: &Secret) -> Secret {
    crate::seal::derive(master, b"votive key file wrap 1")
}

fn new_version(key: &str, version: u32, master: &Secret) -> Result<String, KeyError> {
    let secret = Secret::random()?;
    let aad = version_aad(key, version);
    Ok(hex(&table::seal(&version_key(master), table::nonce()?, &aad, secret.expose())))
}

fn open_version(key: &str, version: u32, sealed: &str, master: &Secret) -> Option<Secret> {
    let sealed = parse_hex::<{ table::SEAL_BYTES + 32 }>(sealed)?;
    let plain = table::open(&version_key(master), &version_aad(key, version), &sealed)?;
    Secret::from_slice(&plain).ok()
}

fn version_aad(key: &str, version: u32) -> Vec<u8> {
    [&version.to_le_bytes(), key.as_bytes()].concat()
}

/// What a data key is wrapped for: each text with its length before it, so that no two contexts look alike.
fn wrap_aad(head: &[u8], key: &str, context: &Context) -> Vec<u8> {
    let mut aad = head.to_vec();
    let texts = std::iter::once(key).chain(context.iter().flat_map(|(k, v)| [k.as_str(), v]));
    for text in texts {
        aad.extend((text.len() as u64).to_le_bytes());
        aad.extend(text.as_bytes());
    }
    aad
}

fn read_limited(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    if File::open(path)?.take(most + 1).read_to_string(&mut text)? as u64 > most {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
