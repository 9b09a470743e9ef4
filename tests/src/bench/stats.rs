//! Percentiles of measured times: always one of the times that were measured, never one between two.

use std::time::Duration;

/// Times, in order.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

impl Times {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// By the nearest rank: the smallest of the times that at least `percent` in a hundred of them do not exceed.
    /// `None` without any.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let rank = (self.0.len() * percent as usize).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The same in microseconds.
    #[must_use]
    pub fn percentile_us(&self, percent: u32) -> Option<f64> {
        self.percentile(percent).map(|time| time.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: &[u64]) -> Times {
        micros.iter().copied().map(Duration::from_micros).collect()
    }

    #[test]
    fn a_percentile_is_the_time_at_its_nearest_rank_whatever_the_order() {
        // The example of the definition: 15, 20, 35, 40, 50.
        let times = of(&[35, 20, 50, 15, 40]);
        let at = |percent| times.percentile_us(percent).map(f64::round);
        assert_eq!([5, 30, 40, 50, 100].map(at), [15.0, 20.0, 20.0, 35.0, 50.0].map(Some));
    }

    #[test]
    fn the_ninety_ninth_of_a_hundred_leaves_one_out_and_of_fewer_none() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(of(&hundred).percentile(99), Some(Duration::from_micros(99)));
        assert_eq!(of(&hundred[..99]).percentile(99), Some(Duration::from_micros(99)));
        assert_eq!(of(&hundred[..99]).percentile(50), Some(Duration::from_micros(50)));
    }

    #[test]
    fn one_time_is_every_percentile_and_none_is_no_figure() {
        assert_eq!(of(&[7]).percentile(1), of(&[7]).percentile(99));
        assert_eq!(of(&[]).percentile(50), None);
        assert_eq!(of(&[]).count(), 0);
    }
}
