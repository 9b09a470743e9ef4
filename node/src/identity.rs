//! The files of a data directory that say who a node is: `key`, `network`, `invitation`. Each is written whole or not
//! at all. Never shows a secret, and never uses a key that others could read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use waypost_core::id::{NetworkId, NodeId};
use waypost_core::trust::{NodeKey, Token};
use zeroize::Zeroizing;

const KEY: &str = "key";
const NETWORK: &str = "network";
const INVITATION: &str = "invitation";
/// A libp2p private key as protobuf: type Ed25519, then 64 bytes of seed and public key (libp2p peer-id spec).
const KEY_PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x40];
const KEY_LEN: usize = 68;

/// Why a data directory does not say who the node is. All of them are for its owner to mend.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system says no.
    #[error("cannot {what} {}: {source}", path.display())]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have read the key, or the token.
    #[error("{path} can be read by others (mode {mode:03o}), and it holds a secret: type `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not what was written there.
    #[error("{} is damaged: restore it from a backup; {hint}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        hint: &'static str,
    },
    /// A node has one network for life.
    #[error("{} belongs to network {own}, and the token invites to {other}: use a new data directory", path.display())]
    OtherNetwork {
        /// The data directory.
        path: PathBuf,
        /// Its network.
        own: NetworkId,
        /// The token's.
        other: NetworkId,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Failed { what, path, source }
}

/// Makes the data directory, readable by its owner only, when there is none.
///
/// # Errors
/// The system refuses.
pub fn prepare(data: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed("make the data directory", data))
}

/// The node's key; `None` when the directory has none.
///
/// # Errors
/// It cannot be read, is not a key, or can be read by others.
pub fn load(data: &Path) -> Result<Option<NodeKey>, IdentityError> {
    let path = data.join(KEY);
    let Some(file) = open_secret(&path)? else { return Ok(None) };
    let content = Zeroizing::new(read(&file, &path)?);
    let damaged = || IdentityError::Damaged { path: path.clone(), hint: "it holds the node's key, 68 bytes" };
    decode_key(&content).map(Some).ok_or_else(damaged)
}

/// The node's key; draws and stores a new one when the directory has none.
///
/// # Errors
/// As [`load`], or the key cannot be stored.
pub fn load_or_create(data: &Path) -> Result<NodeKey, IdentityError> {
    if let Some(key) = load(data)? {
        return Ok(key);
    }
    prepare(data)?;
    let path = data.join(KEY);
    let mut seed = Zeroizing::new([0; 32]);
    let draw = |error| io::Error::other(format!("no randomness: {error}"));
    getrandom::fill(seed.as_mut()).map_err(draw).map_err(failed("draw", &path))?;
    let key = NodeKey::from_seed(&seed);
    write_whole(&path, &encode_key(&key))?;
    Ok(key)
}

/// The network the node belongs to; `None` before it has founded or joined one.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn network(data: &Path) -> Result<Option<NetworkId>, IdentityError> {
    let path = data.join(NETWORK);
    let Some(file) = open(&path)? else { return Ok(None) };
    let content = read(&file, &path)?;
    let bytes = bs58::decode(content.trim_ascii()).into_vec().ok();
    let network = bytes.and_then(|bytes| bytes.try_into().ok()).map(NetworkId);
    network.map(Some).ok_or(IdentityError::Damaged { path, hint: "it holds the network's id, one line of base58" })
}

/// Whether the node has been a member before: it has a network, and no invitation that is still to be used.
#[must_use]
pub fn has_been_member(data: &Path) -> bool {
    data.join(NETWORK).exists() && !data.join(INVITATION).exists()
}

/// Stores the network the node belongs to, unless it is stored: a start on a full disk writes no more than it must.
///
/// # Errors
/// It cannot be stored.
pub fn set_network(data: &Path, network: NetworkId) -> Result<(), IdentityError> {
    if self::network(data).is_ok_and(|stored| stored == Some(network)) {
        return Ok(());
    }
    write_whole(&data.join(NETWORK), format!("{network}\n").as_bytes())
}

/// The token the node was given to join with.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn invitation(data: &Path) -> Result<Option<Token>, IdentityError> {
    let path = data.join(INVITATION);
    let Some(file) = open_secret(&path)? else { return Ok(None) };
    let content = Zeroizing::new(read(&file, &path)?);
    let token = std::str::from_utf8(&content).ok().and_then(|text| Token::parse(text).ok());
    token.map(Some).ok_or(IdentityError::Damaged { path, hint: "or run `waypost join` again with the token" })
}

/// Forgets the token, once the node is a member and the token is a risk without a use.
///
/// # Errors
/// It cannot be removed.
pub fn forget_invitation(data: &Path) -> Result<(), IdentityError> {
    let path = data.join(INVITATION);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Prepares a data directory for its first `run` in the token's network; says which address the node will have.
///
/// # Errors
/// The directory belongs to another network, or cannot be written.
pub fn join(data: &Path, token: &Token) -> Result<NodeId, IdentityError> {
    prepare(data)?;
    let (own, other) = (network(data)?, token.network());
    if let Some(own) = own.filter(|own| *own != other) {
        return Err(IdentityError::OtherNetwork { path: data.to_owned(), own, other });
    }
    let key = load_or_create(data)?;
    // The invitation first: a node with a network and no invitation would believe that it is a member.
    write_whole(&data.join(INVITATION), token.to_text().as_bytes())?;
    set_network(data, other)?;
    Ok(key.id())
}

fn encode_key(key: &NodeKey) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([&KEY_PREFIX[..], key.seed().as_slice(), key.id().as_bytes()].concat())
}

fn decode_key(content: &[u8]) -> Option<NodeKey> {
    let pair = content.strip_prefix(&KEY_PREFIX)?;
    let (seed, public) = pair.split_first_chunk::<32>()?;
    let key = NodeKey::from_seed(seed);
    (content.len() == KEY_LEN && key.id().as_bytes() == public).then_some(key)
}

fn open(path: &Path) -> Result<Option<File>, IdentityError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", path)(error)),
    }
}

/// Opens a file that only its owner may read.
fn open_secret(path: &Path) -> Result<Option<File>, IdentityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mode = file.metadata().map_err(failed("look at", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    Ok(Some(file))
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut content = Vec::new();
    // No file here is longer than a token.
    file.take(128 << 10).read_to_end(&mut content).map_err(failed("read", path))?;
    Ok(content)
}

/// Writes a file that is there whole or not at all, also after a power cut: temporary name, sync, rename, sync.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests;
