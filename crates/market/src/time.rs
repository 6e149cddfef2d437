//! The edge's clocks: milliseconds inside, RFC 3339 outside.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};

/// Milliseconds of the Unix epoch, by the system's clock.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How far the market's time follows a wall clock that jumped ahead, in milliseconds a second. Deadlines then come at most
/// half as much sooner, while whoever keeps a lease or a login renews it twice in its time.
const FOLLOWED_MS_PER_S: u64 = 500;

/// The market's time: it begins at the wall's, passes as a monotonic clock does, and follows a wall clock that is ahead only
/// bit by bit, so that a glitch ends nobody's lease. It never goes back, nor waits for a wall clock that did.
#[derive(Clone, Debug)]
pub struct Clock {
    now_ms: u64,
    monotonic_ms: u64,
    /// Until when, by the monotonic clock, the wall was followed: what passed since bounds the next step.
    followed_ms: u64,
}

impl Clock {
    /// A clock that begins now.
    pub fn new(wall_ms: u64, monotonic_ms: u64) -> Self {
        Self { now_ms: wall_ms, monotonic_ms, followed_ms: monotonic_ms }
    }

    /// The market's time when the two clocks of the system say this.
    pub fn read(&mut self, wall_ms: u64, monotonic_ms: u64) -> u64 {
        self.now_ms = self.now_ms.saturating_add(monotonic_ms.saturating_sub(self.monotonic_ms));
        self.monotonic_ms = self.monotonic_ms.max(monotonic_ms);
        let ahead_ms = wall_ms.saturating_sub(self.now_ms);
        let passed_ms = self.monotonic_ms - self.followed_ms;
        let step_ms = ahead_ms.min(passed_ms * FOLLOWED_MS_PER_S / 1000);
        self.now_ms += step_ms;
        // Fractions of a step are kept while there is something to follow; what was not needed is not saved up.
        if step_ms > 0 || ahead_ms == 0 {
            self.followed_ms = self.monotonic_ms;
        }
        self.now_ms
    }
}

/// The [`Clock`] over the system's clocks.
pub struct SystemClock {
    began: Instant,
    clock: Clock,
}

impl SystemClock {
    /// Begins at the system's time.
    pub fn start() -> Self {
        Self::start_at_least(0)
    }

    /// Begins at the system's time, or at `at_ms` where that is later.
    pub fn start_at_least(at_ms: u64) -> Self {
        Self { began: Instant::now(), clock: Clock::new(now_ms().max(at_ms), 0) }
    }

    /// The market's time.
    pub fn now_ms(&mut self) -> u64 {
        let monotonic_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.clock.read(now_ms(), monotonic_ms)
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn time_passes_as_the_monotonic_clock_does_and_never_goes_back() {
        let mut clock = Clock::new(1_000_000, 0);
        for (wall_ms, monotonic_ms, now_ms) in [
            (1_000_010, 10, 1_000_010),
            // The wall goes back, and stays there.
            (400_000, 20, 1_000_020),
            (400_990, 1010, 1_001_010),
            // The monotonic clock never goes back; if it did, nothing would happen.
            (400_990, 500, 1_001_010),
            (1_002_000, 2000, 1_002_000),
        ] {
            assert_eq!(clock.read(wall_ms, monotonic_ms), now_ms, "at {wall_ms}, {monotonic_ms}");
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_is_followed_bit_by_bit() {
        const HOUR_MS: u64 = 3_600_000;
        // However often it is read.
        for reads_per_s in [1, 10, 1000] {
            let mut clock = Clock::new(0, 0);
            // A quiet day saves up no steps.
            for s in 1..=10 {
                assert_eq!(clock.read(s * 1000, s * 1000), s * 1000);
            }
            let (mut monotonic_ms, mut last_ms) = (10_000, 10_000);
            for _ in 0..4 * reads_per_s {
                monotonic_ms += 1000 / reads_per_s;
                last_ms = clock.read(HOUR_MS + monotonic_ms, monotonic_ms);
            }
            assert_eq!(last_ms, 14_000 + 2000, "half a second a second");
            // The glitch is over: the few seconds stay, and nothing stands still.
            assert_eq!(clock.read(15_000, 15_000), 17_000);
        }
        // One that stays there is met in the end, and not passed.
        let mut clock = Clock::new(0, 0);
        for s in 1..=10_000 {
            let now_ms = clock.read(HOUR_MS + s * 1000, s * 1000);
            assert_eq!(now_ms, (s * 1500).min(HOUR_MS + s * 1000));
        }
    }

    #[test]
    fn times_have_milliseconds_and_a_zone() {
        assert_eq!(super::rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
    }
}
