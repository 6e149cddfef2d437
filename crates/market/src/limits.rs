//! How much one caller may ask in a time, so that none takes the market from the others.
//!
//! Each caller has a bucket a class of requests: it fills at the class's rate and holds what fills it in
//! [`Limits::burst_s`]. Whoever logged in is known by their key, everybody else by their address. A request is let in while the
//! bucket is not empty, whatever it costs: blobs are as long as they are, and what they took too much is waited for afterwards.
//!
//! The memory is bounded: of the callers seen, the ones that were quiet longest are forgotten, and begin with a full bucket. What
//! the rules allow is not decided here, nor is what an account may hold: see [`crate::quotas`].

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use protocol::PublicKey;

/// Callers remembered in each of two generations (some 100 bytes each, so 13 MB together).
const CALLERS_MAX: usize = 64 * 1024;
const NS_PER_S: u64 = 1_000_000_000;

/// Rates of one caller; 0 is no limit.
///
/// The defaults are far above what the busiest worker needs and far below what the market can do: 10,000 workers behind one
/// address log in within seconds, while a program that lost its mind is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Questions of one key.
    pub reads_per_s: u64,
    /// Changes by one key.
    pub writes_per_s: u64,
    /// Requests without a login from one address (of IPv6, one /64 network).
    pub strangers_per_s: u64,
    /// Blob bytes to and from one key or address.
    pub blob_bytes_per_s: u64,
    /// How many seconds' worth may come at once.
    pub burst_s: u64,
    /// Proxies whose `x-forwarded-for` names the caller's address.
    pub proxies: Vec<IpAddr>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads_per_s: 2_000,
            writes_per_s: 4_000,
            strangers_per_s: 5_000,
            blob_bytes_per_s: 1 << 30,
            burst_s: 10,
            proxies: Vec::new(),
        }
    }
}

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Who logged in.
    Key(PublicKey),
    /// Who did not.
    Address(IpAddr),
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Questions.
    Reads,
    /// Changes.
    Writes,
    /// Requests of whoever did not log in.
    Strangers,
    /// Bytes of blobs.
    BlobBytes,
}

impl Class {
    /// Its name in metrics and problems.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Strangers => "strangers",
            Self::BlobBytes => "blob_bytes",
        }
    }
}

/// By class, when the bucket would be full again. A full bucket's time is past; an empty one's is `burst` ahead.
type Buckets = [u64; 4];

/// The buckets of all callers.
pub struct Limiter {
    limits: Limits,
    began: Instant,
    callers: Mutex<Callers>,
}

#[derive(Default)]
struct Callers {
    young: HashMap<Who, Buckets>,
    old: HashMap<Who, Buckets>,
}

impl Callers {
    fn of(&mut self, who: Who) -> &mut Buckets {
        if !self.young.contains_key(&who) {
            let buckets = self.old.remove(&who).unwrap_or_default();
            if self.young.len() >= CALLERS_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(who, buckets);
        }
        self.young.get_mut(&who).expect("it was just put there")
    }
}

impl Limiter {
    /// Full buckets for everybody.
    pub fn new(limits: Limits) -> Self {
        Self { limits, began: Instant::now(), callers: Mutex::default() }
    }

    /// Whose bucket an unknown caller's is, who came from `peer` and perhaps through proxies.
    pub fn stranger(&self, peer: IpAddr, forwarded_for: Option<&str>) -> Who {
        let proxies = &self.limits.proxies;
        let mut address = peer.to_canonical();
        // Each proxy adds whom it heard at the end; what stands before the first that is not ours may be anything.
        for named in forwarded_for.unwrap_or_default().rsplit(',') {
            if !proxies.contains(&address) {
                break;
            }
            let Ok(named) = named.trim().parse::<IpAddr>() else { break };
            address = named.to_canonical();
        }
        Who::Address(match address {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
            v4 => v4,
        })
    }

    /// Lets a request in that costs `cost`, or says how long to wait.
    pub fn admit(&self, who: Who, class: Class, cost: u64) -> Result<(), Duration> {
        self.admit_at(self.now_ns(), who, class, cost)
    }

    /// Takes from the bucket what was let in already.
    pub fn charge(&self, who: Who, class: Class, cost: u64) {
        self.charge_at(self.now_ns(), who, class, cost);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn rate(&self, class: Class) -> u64 {
        match class {
            Class::Reads => self.limits.reads_per_s,
            Class::Writes => self.limits.writes_per_s,
            Class::Strangers => self.limits.strangers_per_s,
            Class::BlobBytes => self.limits.blob_bytes_per_s,
        }
    }

    fn admit_at(&self, now_ns: u64, who: Who, class: Class, cost: u64) -> Result<(), Duration> {
        let rate = self.rate(class);
        if rate == 0 {
            return Ok(());
        }
        let burst_ns = self.limits.burst_s.max(1).saturating_mul(NS_PER_S);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let full_ns = &mut callers.of(who)[class as usize];
        let ahead_ns = full_ns.saturating_sub(now_ns);
        // Not a request more than the burst holds.
        let too_much_ns = (ahead_ns + NS_PER_S / rate).saturating_sub(burst_ns);
        if too_much_ns > 0 {
            return Err(Duration::from_nanos(too_much_ns));
        }
        *full_ns = now_ns.saturating_add(ahead_ns).saturating_add(price_ns(cost, rate));
        Ok(())
    }

    fn charge_at(&self, now_ns: u64, who: Who, class: Class, cost: u64) {
        let rate = self.rate(class);
        if rate > 0 {
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            let full_ns = &mut callers.of(who)[class as usize];
            *full_ns = (*full_ns).max(now_ns).saturating_add(price_ns(cost, rate));
        }
    }
}

fn price_ns(cost: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(cost) * u128::from(NS_PER_S) / u128::from(rate)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Who = Who::Key(PublicKey([1; 32]));
    const BOB: Who = Who::Key(PublicKey([2; 32]));

    fn limiter(rate: u64, burst_s: u64) -> Limiter {
        Limiter::new(Limits { writes_per_s: rate, blob_bytes_per_s: rate, burst_s, ..Limits::default() })
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let limiter = limiter(10, 2);
        let let_in = |who, from_ns: u64, to_ns: u64| {
            let tries = (from_ns..to_ns).step_by(1_000_000);
            tries.filter(|at| limiter.admit_at(*at, who, Class::Writes, 1).is_ok()).count()
        };
        assert_eq!(let_in(ADA, 0, 100_000_000), 20);
        assert_eq!(let_in(ADA, 100_000_000, 10 * NS_PER_S), 99, "ten a second");
        assert_eq!(let_in(BOB, 0, 100_000_000), 20, "another's bucket is full");
        assert_eq!(
            let_in(ADA, 1000 * NS_PER_S, 1000 * NS_PER_S + 100_000_000),
            20,
            "it filled up again, and no more"
        );
    }

    #[test]
    fn whoever_is_refused_hears_when_to_come_back() {
        let limiter = limiter(2, 1);
        let mut now_ns = 5 * NS_PER_S;
        for _ in 0..2 {
            limiter.admit_at(now_ns, ADA, Class::Writes, 1).expect("a full bucket");
        }
        for _ in 0..10 {
            let wait = limiter.admit_at(now_ns, ADA, Class::Writes, 1).expect_err("empty");
            assert_eq!(wait, Duration::from_millis(500));
            now_ns += 500_000_000;
            limiter.admit_at(now_ns, ADA, Class::Writes, 1).expect("it came back in time");
        }
    }

    #[test]
    fn what_was_too_much_is_waited_for() {
        let limiter = limiter(100, 1);
        limiter.admit_at(0, ADA, Class::BlobBytes, 0).expect("a full bucket");
        limiter.charge_at(0, ADA, Class::BlobBytes, 1000);
        assert!(limiter.admit_at(NS_PER_S, ADA, Class::BlobBytes, 0).is_err());
        limiter.admit_at(10 * NS_PER_S, ADA, Class::BlobBytes, 0).expect("paid off");
        limiter.admit_at(NS_PER_S, ADA, Class::Writes, 1).expect("other classes are not touched");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let limiter = limiter(0, 1);
        limiter.charge_at(0, ADA, Class::BlobBytes, u64::MAX);
        for _ in 0..1000 {
            limiter.admit_at(0, ADA, Class::Writes, u64::MAX).expect("no limit");
        }
    }

    #[test]
    fn a_flood_of_callers_takes_bounded_memory() {
        let limiter = limiter(1, 1);
        limiter.admit_at(0, ADA, Class::Writes, 1).expect("a full bucket");
        for n in 0..3 * CALLERS_MAX as u32 {
            let who = Who::Address(IpAddr::V4(n.into()));
            limiter.admit_at(0, who, Class::Writes, 1).expect("a full bucket");
            if n % 1000 == 0 {
                limiter.admit_at(0, ADA, Class::Writes, 1).expect_err("who calls is remembered");
            }
        }
        let callers = limiter.callers.lock().expect("nobody panicked");
        assert!(callers.young.len() <= CALLERS_MAX && callers.old.len() <= CALLERS_MAX);
    }

    #[test]
    fn strangers_are_told_apart_by_address_and_proxies_are_believed_where_they_are_ours() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let limiter =
            Limiter::new(Limits { proxies: vec![ip("10.0.0.1"), ip("10.0.0.2")], ..Limits::default() });
        let check = |peer: &str, forwarded_for: Option<&str>, expected: &str| {
            assert_eq!(
                limiter.stranger(ip(peer), forwarded_for),
                Who::Address(ip(expected)),
                "{peer} {forwarded_for:?}"
            );
        };
        check("1.2.3.4", None, "1.2.3.4");
        check("::ffff:1.2.3.4", None, "1.2.3.4");
        check("1.2.3.4", Some("5.6.7.8"), "1.2.3.4");
        check("10.0.0.1", None, "10.0.0.1");
        check("10.0.0.1", Some("9.9.9.9, 5.6.7.8"), "5.6.7.8");
        check("10.0.0.1", Some("9.9.9.9, 5.6.7.8, 10.0.0.2"), "5.6.7.8");
        check("10.0.0.1", Some("nonsense"), "10.0.0.1");
        check("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::");
    }
}
