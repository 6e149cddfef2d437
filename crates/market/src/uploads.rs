//! How many bytes of new blobs each account stored in the last days.
//!
//! Bytes count for whoever brought them first, from the day they were stored until they would be collected if no job needed them.
//! The counts are a process's own: they are kept in a file of its data folder, written every minute and at the end, so that a
//! crash forgets at most a minute. They bound what an account may take; nobody is paid by them.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use protocol::PublicKey;
use tokio::sync::watch;

use crate::time;

const SAVE_EVERY: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 3600 * 1000;

type Days = VecDeque<(u64, u64)>;

/// The counts.
pub struct Uploads {
    file: PathBuf,
    keep_days: u64,
    accounts: Mutex<HashMap<PublicKey, Days>>,
}

impl Uploads {
    /// Reads the counts; a file that is lost or unreadable begins them anew.
    pub fn open(file: PathBuf, keep: Duration) -> Self {
        let read = fs::read(&file).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
        let accounts = match read {
            Ok(accounts) => accounts,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, file = %file.display(), "what accounts uploaded is counted anew");
                }
                HashMap::new()
            }
        };
        Self { file, keep_days: keep.as_secs().div_ceil(24 * 3600).max(1), accounts: Mutex::new(accounts) }
    }

    /// What an account stored in the last days.
    pub fn used(&self, account: &PublicKey) -> u64 {
        self.used_on(account, today())
    }

    /// An account stored a blob that was new.
    pub fn add(&self, account: PublicKey, bytes: u64) {
        self.add_on(account, bytes, today());
    }

    fn used_on(&self, account: &PublicKey, today: u64) -> u64 {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let days = accounts.get(account).into_iter().flatten();
        days.filter(|(day, _)| day + self.keep_days > today)
            .fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    fn add_on(&self, account: PublicKey, bytes: u64, today: u64) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let days = accounts.entry(account).or_default();
        days.retain(|(day, _)| day + self.keep_days > today);
        match days.back_mut() {
            Some((day, sum)) if *day == today => *sum = sum.saturating_add(bytes),
            _ => days.push_back((today, bytes)),
        }
    }

    /// Writes the counts beside their place and moves them there.
    fn save(&self) -> io::Result<()> {
        let text = {
            let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            let today = today();
            for days in accounts.values_mut() {
                days.retain(|(day, _)| day + self.keep_days > today);
            }
            accounts.retain(|_, days| !days.is_empty());
            serde_json::to_vec(&*accounts)?
        };
        let beside = self.file.with_extension("new");
        fs::write(&beside, text)?;
        fs::rename(&beside, &self.file)
    }

    /// Keeps the file up to date until `stop` turns true.
    pub async fn keep(self: std::sync::Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(SAVE_EVERY) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopping {
                return;
            }
            let uploads = self.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || uploads.save()).await {
                tracing::warn!(%error, "cannot write down what accounts uploaded");
            }
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // After the last upload; there is nobody left to tell of a failure but the log.
        if let Err(error) = self.save() {
            tracing::warn!(%error, "cannot write down what accounts uploaded");
        }
    }
}

fn today() -> u64 {
    time::now_ms() / DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: PublicKey = PublicKey([1; 32]);

    #[test]
    fn bytes_count_until_they_would_be_collected() {
        let folder = tempfile::tempdir().expect("a folder");
        let uploads = Uploads::open(folder.path().join("uploads.json"), Duration::from_secs(2 * 24 * 3600));
        for (day, bytes, used) in [(10, 5, 5), (10, 2, 7), (11, 1, 8), (12, 0, 1), (13, 4, 4)] {
            uploads.add_on(ADA, bytes, day);
            assert_eq!(uploads.used_on(&ADA, day), used, "day {day}");
        }
        assert_eq!(uploads.used_on(&PublicKey([2; 32]), 13), 0);
    }

    #[test]
    fn counts_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("uploads.json");
        let open = || Uploads::open(file.clone(), Duration::from_secs(1));
        open().add(ADA, 5);
        assert_eq!(open().used(&ADA), 5);
        fs::write(&file, "no counts").expect("written");
        assert_eq!(open().used(&ADA), 0);
    }
}
