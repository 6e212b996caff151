//! The figures of one contender, from all of its samples.

use std::time::Duration;

use serde::Serialize;

/// Order statistics in microseconds, and the sequential rate.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The fastest launch.
    pub min_us: f64,
    /// One launch in ten is faster.
    pub p10_us: f64,
    /// The median.
    pub median_us: f64,
    /// One launch in ten is slower.
    pub p90_us: f64,
    /// One launch in a hundred is slower.
    pub p99_us: f64,
    /// The slowest launch.
    pub max_us: f64,
    /// How many launches fit into a second, one after the other: 1 / mean.
    pub launches_per_second: f64,
}

impl Summary {
    /// Sums up samples in microseconds; `None` when there are none.
    pub fn of(samples_us: &[f64]) -> Option<Self> {
        let mut sorted = samples_us.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min_us, max_us) = (*sorted.first()?, *sorted.last()?);
        let mean_us = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Self {
            min_us,
            p10_us: percentile(&sorted, 10),
            median_us: percentile(&sorted, 50),
            p90_us: percentile(&sorted, 90),
            p99_us: percentile(&sorted, 99),
            max_us,
            launches_per_second: 1e6 / mean_us,
        })
    }
}

/// Nearest rank: always a value that was measured.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// Microseconds, to a tenth.
pub fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn percentiles_are_nearest_rank_and_need_no_order() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).expect("there are samples");
        assert_eq!((summary.min_us, summary.max_us), (1.0, 200.0));
        assert_eq!((summary.p10_us, summary.median_us), (20.0, 100.0));
        assert_eq!((summary.p90_us, summary.p99_us), (180.0, 198.0));
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_no_summary() {
        let summary = Summary::of(&[3.0]).expect("there is a sample");
        assert_eq!((summary.min_us, summary.median_us, summary.p99_us), (3.0, 3.0, 3.0));
        assert!(Summary::of(&[]).is_none());
    }
}
