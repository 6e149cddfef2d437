//! Wallet files: Solana's form, a JSON array of 64 numbers (seed, then public key), readable by their owner alone.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use protocol::{KeyError, SecretKey};

use crate::exit::Failure;

/// A key file is never longer: 64 numbers of three digits with commas and spaces.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a wallet file cannot be used.
#[derive(Debug)]
pub enum WalletError {
    /// There is none.
    Missing { file: PathBuf },
    /// There is one already.
    Exists { file: PathBuf },
    /// It cannot be read or written.
    Io { file: PathBuf, doing: &'static str, source: io::Error },
    /// It is not a key pair.
    Malformed { file: PathBuf, reason: String },
    /// Others can read it.
    Open { file: PathBuf, mode: u32 },
}

impl From<WalletError> for Failure {
    fn from(error: WalletError) -> Self {
        match error {
            WalletError::Missing { file } => Self::new(format!("there is no wallet in {}", file.display()))
                .code("wallet_missing")
                .fix("make one with `plexus wallet new`, or name another file with --wallet"),
            WalletError::Exists { file } => Self::new(format!("{} exists already", file.display()))
                .code("wallet_exists")
                .fix("a lost key is lost money: name another file with --wallet, or move this one away"),
            WalletError::Io { file, doing, source } => {
                Self::new(format!("failed to {doing} {}: {source}", file.display())).code("wallet_io")
            }
            WalletError::Malformed { file, reason } => Self::new(format!(
                "{} is not a wallet: {reason}",
                file.display()
            ))
            .code("wallet_malformed")
            .fix(
                "a wallet is a JSON array of 64 numbers, as `plexus wallet new` and Solana's tools write it",
            ),
            WalletError::Open { file, mode } => Self::new(format!(
                "other users can read the secret key in {} (mode {mode:03o})",
                file.display()
            ))
            .code("wallet_open")
            .fix(format!("close it with `chmod 600 {}`", file.display())),
        }
    }
}

/// `wallet.json` in the user's configuration folder.
pub fn default_file() -> Result<PathBuf, Failure> {
    Ok(user_folder("XDG_CONFIG_HOME", ".config")?.join("wallet.json"))
}

/// The product's folder among the user's: by the XDG variable, or under the home folder.
pub fn user_folder(variable: &str, under_home: &str) -> Result<PathBuf, Failure> {
    let by_variable = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = by_variable.or_else(|| std::env::home_dir().map(|home| home.join(under_home)));
    base.map(|base| base.join("plexus")).ok_or_else(|| {
        Failure::new("cannot tell where your home folder is").fix(format!("set HOME, or {variable}"))
    })
}

/// Reads the key in `file`. A file that others can read is refused, because its key may be known already.
pub fn read(file: &Path) -> Result<SecretKey, WalletError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => WalletError::Missing { file: file.to_owned() },
        _ => WalletError::Io { file: file.to_owned(), doing: "read", source },
    };
    let malformed = |reason: String| WalletError::Malformed { file: file.to_owned(), reason };
    let facts = fs::metadata(file).map_err(io_error)?;
    if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
        return Err(malformed("it is not a small file".to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = facts.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(WalletError::Open { file: file.to_owned(), mode });
        }
    }
    let text = fs::read_to_string(file).map_err(io_error)?;
    // serde's own message would quote a number of the secret.
    let numbers: Vec<u8> = serde_json::from_str(&text)
        .map_err(|error| malformed(format!("line {} is not JSON numbers below 256", error.line())))?;
    let count = numbers.len();
    let pair: [u8; 64] =
        numbers.try_into().map_err(|_| malformed(format!("it has {count} numbers, not 64")))?;
    SecretKey::from_pair(&pair).map_err(|error: KeyError| malformed(error.to_string()))
}

/// Makes a new key in `file`, which must not exist.
pub fn create(file: &Path) -> Result<SecretKey, WalletError> {
    let io_error = |doing: &'static str| {
        move |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => WalletError::Exists { file: file.to_owned() },
            _ => WalletError::Io { file: file.to_owned(), doing, source },
        }
    };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| io_error("make a key for")(io::Error::other(error.to_string())))?;
    let key = SecretKey::from_seed(seed);
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(io_error("make the folder of"))?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut created = options.open(file).map_err(io_error("create"))?;
    let text = serde_json::to_string(&key.to_pair().as_slice()).expect("numbers have a JSON form");
    let written = writeln!(created, "{text}").and_then(|()| created.sync_all());
    if let Err(source) = written {
        // Half a key is worse than none.
        let _ = fs::remove_file(file);
        return Err(io_error("write")(source));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_wallet_is_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/wallet.json");
        let key = create(&file).unwrap();
        assert_eq!(read(&file).unwrap().public(), key.public());
        assert!(matches!(create(&file), Err(WalletError::Exists { .. })));
        assert_eq!(read(&file).unwrap().public(), key.public());
        let numbers: Vec<u8> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(numbers[32..], key.public().0, "the form of Solana's tools");
    }

    #[cfg(unix)]
    #[test]
    fn a_wallet_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wallet.json");
        create(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&file), Err(WalletError::Open { mode: 0o640, .. })));
    }

    #[test]
    fn what_is_not_a_key_pair_is_refused_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wallet.json");
        let write = |text: &str| {
            let _ = fs::remove_file(&file);
            create(&file).unwrap();
            fs::write(&file, text).unwrap();
        };
        assert!(matches!(read(&file), Err(WalletError::Missing { .. })));
        for text in ["", "[]", "[1,2,3]", "{\"key\": 77777}", "[300]", &"[".repeat(5000)] {
            write(text);
            let error = read(&file).unwrap_err();
            assert!(matches!(error, WalletError::Malformed { .. }), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("77777"));
        }
        let mut pair = SecretKey::from_seed([1; 32]).to_pair();
        pair[40] ^= 1;
        write(&serde_json::to_string(&pair.as_slice()).unwrap());
        assert!(matches!(read(&file), Err(WalletError::Malformed { .. })));
    }
}
