//! The Theil-Sen slope (median of all pairwise slopes), its error, and the Mann-Kendall trend statistic.
//!
//! Medians, so that a burst in the window does not tilt the line. Sen, J. Am. Stat. Assoc. 63 (1968); Mann,
//! Econometrica 13 (1945).

use arrayvec::ArrayVec;

/// Points it takes at the most.
pub const POINTS: usize = 32;

const PAIRS: usize = POINTS * (POINTS - 1) / 2;
/// Median absolute deviation to standard deviation, for normal noise.
const MAD_TO_SIGMA: f64 = 1.4826;

#[derive(Clone, Copy, Debug)]
pub struct Slope {
    /// Units per second.
    pub rate: f64,
    /// Standard error of `rate`.
    pub error: f64,
    /// Mann-Kendall Z: beyond ±1.64 there is a trend at 5 %.
    pub trend_z: f64,
}

/// The slope of up to 32 points in order of time.
pub fn of(points: &[(f64, f64)]) -> Slope {
    let n = points.len() as f64;
    let mut slopes: ArrayVec<f64, PAIRS> = ArrayVec::new();
    let mut score = 0.0;
    for (i, a) in points.iter().enumerate() {
        for b in &points[i + 1..] {
            let rise = b.1 - a.1;
            if b.0 > a.0 && !slopes.is_full() {
                slopes.push(rise / (b.0 - a.0));
            }
            score += f64::from(i8::from(rise > 0.0) - i8::from(rise < 0.0));
        }
    }
    let rate = median(&mut slopes).unwrap_or(0.0);
    let mut residuals: ArrayVec<f64, POINTS> =
        points.iter().take(POINTS).map(|(t, v)| v - rate * t).collect();
    let center = median(&mut residuals).unwrap_or(0.0);
    for residual in &mut residuals {
        *residual = (*residual - center).abs();
    }
    let sigma = median(&mut residuals).unwrap_or(0.0) * MAD_TO_SIGMA;
    let mean_t = points.iter().map(|(t, _)| t).sum::<f64>() / n;
    let spread = points.iter().map(|(t, _)| (t - mean_t).powi(2)).sum::<f64>();
    Slope {
        rate,
        error: if spread > 0.0 { sigma / spread.sqrt() } else { f64::INFINITY },
        trend_z: if points.len() > 2 { score / (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt() } else { 0.0 },
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    let odd = values.len() % 2 == 1;
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if odd {
        return Some(upper);
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(0.5 * (lower + upper))
}
