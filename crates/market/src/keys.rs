//! The market's own secrets, kept beside its data and readable by their owner alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol::{Hash, SecretKey};
use serde::{Deserialize, Serialize};

/// Why the secrets could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Others can read it, so that its key and its draws may be known already.
    #[error("other users can read the market's secrets in {path} (mode {mode:03o})")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is there but is not ours.
    #[error("{path} is not a key file of a market: {detail}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a market never tells anybody.
pub struct Secrets {
    /// Signs tokens; its public half is the market's id.
    pub key: SecretKey,
    /// Makes the keys that checks are drawn with. Whoever knows it knows beforehand what is checked.
    challenge: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    /// Solana's 64-byte key pair, in hex.
    key_pair: String,
    /// 32 bytes, in hex.
    challenge_secret: String,
}

impl Secrets {
    /// Reads the file, or makes new secrets where there is none, which the second answer says: they are then to be
    /// [saved](Self::save).
    pub fn load_or_make(path: &Path) -> Result<(Self, bool), KeyFileError> {
        let path = path.to_owned();
        let malformed = |detail: String| KeyFileError::Malformed { path: path.clone(), detail };
        match fs::read(&path) {
            Ok(bytes) => {
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt;
                    let facts = fs::metadata(&path)
                        .map_err(|source| KeyFileError::Io { path: path.clone(), source })?;
                    let mode = facts.permissions().mode() & 0o777;
                    if mode & 0o077 != 0 {
                        return Err(KeyFileError::Open { path, mode });
                    }
                }
                let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
                if file.version != 1 {
                    return Err(malformed(format!("version {} is newer than this program", file.version)));
                }
                let (mut pair, mut challenge) = ([0; 64], [0; 32]);
                hex::decode_to_slice(&file.key_pair, &mut pair).map_err(|e| malformed(e.to_string()))?;
                hex::decode_to_slice(&file.challenge_secret, &mut challenge)
                    .map_err(|e| malformed(e.to_string()))?;
                let key = SecretKey::from_pair(&pair).map_err(|e| malformed(e.to_string()))?;
                Ok((Self { key, challenge }, false))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((Self { key: SecretKey::from_seed(random()), challenge: random() }, true))
            }
            Err(source) => Err(KeyFileError::Io { path, source }),
        }
    }

    /// Writes them to a file that only its owner can read.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let file = KeyFile {
            version: 1,
            key_pair: hex::encode(self.key.to_pair()),
            challenge_secret: hex::encode(self.challenge),
        };
        let text = serde_json::to_vec_pretty(&file).expect("strings serialise");
        write_secret(path, &text).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
    }

    /// What only the market's processes know, as they show it to one another.
    pub fn process_token(&self) -> String {
        Hash::of_parts(&[b"plexus/process/v1\0", &self.challenge]).to_string()
    }

    /// What the keys of challenges are made from.
    pub fn challenge_secret(&self) -> Hash {
        Hash::of_parts(&[b"plexus/challenges/v1\0", &self.challenge])
    }
}

/// 32 bytes from the system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn write_secret(path: &Path, text: &[u8]) -> io::Result<()> {
    use io::Write;
    let beside = path.with_extension("tmp");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    #[cfg(unix)]
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_are_made_once_and_read_by_their_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("market-key.json");
        let (first, made) = Secrets::load_or_make(&path).expect("readable");
        assert!(made);
        first.save(&path).expect("writable");
        let (second, made) = Secrets::load_or_make(&path).expect("readable");
        assert!(!made);
        assert_eq!(first.key.public(), second.key.public());
        assert_eq!(first.challenge_secret(), second.challenge_secret());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            for mode in [0o640, 0o604, 0o644] {
                let open = fs::Permissions::from_mode(mode);
                fs::set_permissions(&path, open).expect("ours");
                match Secrets::load_or_make(&path) {
                    Err(KeyFileError::Open { mode: found, .. }) => assert_eq!(found, mode),
                    other => panic!("{mode:o}: {:?}", other.map(drop)),
                }
            }
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&path, closed).expect("ours");
        }
        fs::write(&path, "{}").expect("writable");
        assert!(matches!(Secrets::load_or_make(&path), Err(KeyFileError::Malformed { .. })));
    }
}
