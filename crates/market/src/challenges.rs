//! The keys that checks are drawn with, made from the market's secret.
//!
//! A chain of keys lasts for 65,536 epochs; its last key comes from the secret and the chain's number, so that every process of the
//! market makes the same ones and nothing more has to be kept. The leader journals a chain's anchor before it draws with it: when the
//! market is founded, at the first start with a version that does so, when a chain is over, and when the secret is not the one that
//! made the chain. See [`protocol::challenge`] for what that proves, and `docs/proof.md`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{Command, State};
use protocol::{
    ChallengeChain, Hash,
    challenge::{self, KeyChain},
};

/// Epochs of a chain: seven years of hours, made in a few milliseconds.
const EPOCHS: u64 = 1 << 16;

/// Makes keys.
pub struct Challenges {
    secret: Hash,
    epoch_ms: u64,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    chains: HashMap<usize, Arc<KeyChain>>,
    /// The key that was used last, by its chain and epoch.
    last: Option<(usize, u64, Hash)>,
}

impl Challenges {
    /// Keys from a secret, for epochs of this length.
    pub fn new(secret: Hash, epoch: Duration) -> Self {
        let epoch_ms = u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { secret, epoch_ms, made: Mutex::default() }
    }

    fn chain(&self, number: usize) -> Arc<KeyChain> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = made.chains.entry(number).or_insert_with(|| {
            let message = [&b"plexus/challenge-chain/v1\0"[..], &(number as u64).to_le_bytes()].concat();
            Arc::new(KeyChain::new(challenge::hmac(&self.secret, &message), EPOCHS))
        });
        chain.clone()
    }

    /// The command that begins a chain, where none is there or the last one is over.
    pub fn due(&self, state: &State, now_ms: u64) -> Option<Command> {
        let chains = state.challenges();
        let current = chains.last().is_some_and(|chain| chain.epoch_at(now_ms) <= chain.epochs);
        (!current).then(|| self.begin(chains.len()))
    }

    /// The same, where the last one was made from another secret as well.
    pub fn due_at_start(&self, state: &State, now_ms: u64) -> Option<Command> {
        let chains = state.challenges();
        if let Some((number, chain)) = (0..).zip(chains).last()
            && !self.made(number, chain)
        {
            tracing::warn!(
                anchor = %chain.anchor,
                "the market's secret is not the one that its last challenges were made from: they begin anew"
            );
            return Some(self.begin(chains.len()));
        }
        self.due(state, now_ms)
    }

    fn begin(&self, number: usize) -> Command {
        let anchor = self.chain(number).anchor();
        Command::AnchorChallenges { anchor, epoch_ms: self.epoch_ms, epochs: EPOCHS }
    }

    /// Whether a chain is of this secret.
    fn made(&self, number: usize, chain: &ChallengeChain) -> bool {
        chain.epochs == EPOCHS && self.chain(number).anchor() == chain.anchor
    }

    /// The secret part of the draw for a receipt that is journaled now.
    ///
    /// # Panics
    ///
    /// If no chain was begun: [`due`](Self::due) comes first.
    pub fn seed(&self, state: &State, now_ms: u64, receipt: &Hash) -> Hash {
        let chains = state.challenges();
        let (number, chain) = (chains.len() - 1, chains.last().expect("a leader anchors before it decides"));
        let epoch = chain.epoch_at(now_ms);
        challenge::seed(&self.key(number, epoch), receipt)
    }

    fn key(&self, number: usize, epoch: u64) -> Hash {
        let last = self.made.lock().unwrap_or_else(PoisonError::into_inner).last;
        if let Some((of, at, key)) = last
            && (of, at) == (number, epoch)
        {
            return key;
        }
        let key = self.chain(number).key(epoch).expect("a chain that is over is followed by another one");
        self.made.lock().unwrap_or_else(PoisonError::into_inner).last = Some((number, epoch, key));
        key
    }

    /// The last key of a chain that may be shown, where all epochs that were over at `until_ms` may be.
    pub fn shown(&self, number: usize, chain: &ChallengeChain, until_ms: u64) -> Option<(u64, Hash)> {
        let epoch = chain.last_over_at(until_ms);
        if epoch == 0 || !self.made(number, chain) {
            return None;
        }
        Some((epoch, self.chain(number).key(epoch)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Params;
    use protocol::PublicKey;

    const HOUR: Duration = Duration::from_secs(3600);

    fn anchored(challenges: &Challenges) -> State {
        let founded = State::found(PublicKey([1; 32]), Params::default(), 1_000);
        let (mut state, _) = founded.expect("the default parameters are safe");
        let command = challenges.due(&state, 1_000).expect("a new market has no chain");
        engine::decide(&mut state, 1_000, command).expect("a chain may always begin");
        state
    }

    #[test]
    fn draws_can_be_checked_once_their_keys_are_shown() {
        let challenges = Challenges::new(Hash::of(b"secret"), HOUR);
        let state = anchored(&challenges);
        let [chain] = *state.challenges() else { panic!("one chain") };
        let (receipt, at_ms) = (Hash::of(b"receipt"), 1_000 + 2 * 3_600_000);
        let seed = challenges.seed(&state, at_ms, &receipt);
        assert_eq!(
            challenges.shown(0, &chain, at_ms).map(|(epoch, _)| epoch),
            Some(2),
            "its own is not over"
        );
        let (epoch, key) = challenges.shown(0, &chain, at_ms + 3_600_000).expect("three are over");
        assert_eq!((epoch, chain.epoch_at(at_ms)), (3, 3));
        assert!(chain.has(epoch, &key));
        assert_eq!(challenge::seed(&key, &receipt), seed);
        assert_eq!(challenges.shown(0, &chain, 1_000), None);
        // Later keys tell earlier ones.
        let (later, key) = challenges.shown(0, &chain, u64::MAX).expect("all are over");
        assert_eq!(challenge::seed(&challenge::key_below(&key, later - 3), &receipt), seed);
    }

    #[test]
    fn a_chain_begins_when_one_is_over_or_the_secret_changed_and_not_otherwise() {
        let challenges = Challenges::new(Hash::of(b"secret"), HOUR);
        let mut state = anchored(&challenges);
        let over = 1_000 + EPOCHS * 3_600_000;
        assert!(challenges.due_at_start(&state, over - 1).is_none());
        let command = challenges.due(&state, over).expect("it is over");
        engine::decide(&mut state, over, command).expect("a chain may always begin");
        let [first, second] = *state.challenges() else { panic!("two chains") };
        assert_ne!(first.anchor, second.anchor);
        assert_eq!(second.epoch_at(over), 1);

        let other = Challenges::new(Hash::of(b"another secret"), HOUR);
        assert!(other.due(&state, over).is_none());
        assert!(other.due_at_start(&state, over).is_some());
        assert_eq!(other.shown(1, &second, u64::MAX), None, "nobody shows keys that are not the chain's");
    }
}
