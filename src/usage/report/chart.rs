//! The chart of a tenant: what it has spent since the month began, day by day, against its limits. Geometry only; pure.
//!
//! Two panels over the same days: above, the sum so far with the month's limit and alert threshold; below, each day's own cost with the
//! day's limit. All in units of the drawing, which is as wide as a phone, so that its text is readable there.

use super::grouped;

/// The size of the drawing.
pub(super) const WIDTH: f64 = 360.0;
/// See [`WIDTH`].
pub(super) const HEIGHT: f64 = 216.0;

const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 6.0;
const TOTAL: Span = Span { top: 14.0, bottom: 134.0 };
const DAILY: Span = Span { top: 154.0, bottom: 196.0 };

/// What is drawn, in cents.
pub(super) struct Spending<'a> {
    /// How many days the month has, and how many of them are past or present.
    pub(super) days: u32,
    pub(super) days_past: u32,
    /// Cost by day, from 1; days without any are left out.
    pub(super) by_day: &'a [(u32, i128)],
    pub(super) monthly_limit: Option<f64>,
    pub(super) threshold: Option<f64>,
    pub(super) daily_limit: Option<f64>,
    /// Where alerts were raised: the day, and whether it was that day's limit (or else the month's).
    pub(super) alerts: &'a [(u32, bool)],
}

/// A chart, ready to be drawn.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) line: String,
    pub(super) area: String,
    pub(super) bars: Vec<Bar>,
    pub(super) totals: Vec<Tick>,
    pub(super) dailies: Vec<Tick>,
    pub(super) days: Vec<Tick>,
    pub(super) monthly_limit: Option<String>,
    pub(super) threshold: Option<String>,
    pub(super) daily_limit: Option<String>,
    pub(super) marks: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Bar {
    pub(super) x: String,
    pub(super) y: String,
    pub(super) width: String,
    pub(super) height: String,
}

/// A line of the scale, or a day: where it is, and what is written there.
#[derive(Debug)]
pub(super) struct Tick {
    pub(super) at: String,
    pub(super) label: String,
}

/// From where to where a panel goes.
#[derive(Clone, Copy)]
struct Span {
    top: f64,
    bottom: f64,
}

/// Which values a panel shows.
#[derive(Clone, Copy)]
struct Scale {
    span: Span,
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale for all of these and nothing.
    fn of(span: Span, values: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = values.fold((0.0_f64, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        Scale { span, low, high: if high > low { high } else { low + 100.0 } }
    }

    fn y(&self, value: f64) -> f64 {
        let Span { top, bottom } = self.span;
        bottom - (value - self.low) / (self.high - self.low) * (bottom - top)
    }

    /// Round numbers, at most this many and zero.
    fn ticks(&self, most: f64) -> Vec<Tick> {
        let rough = (self.high - self.low) / most;
        let power = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|n| n as f64 * step).map(|v| Tick { at: at(self.y(v)), label: short(v / 100.0) }).collect()
    }
}

/// Lays the chart out.
pub(super) fn chart(spending: &Spending) -> Chart {
    let band = (RIGHT - LEFT) / f64::from(spending.days.max(1));
    let x = |day: u32| LEFT + band * (f64::from(day) - 0.5);
    let mut by_day = vec![0_i128; spending.days as usize];
    for (day, cents) in spending.by_day {
        if let Some(of_day) = by_day.get_mut((*day as usize).wrapping_sub(1)) {
            *of_day = of_day.saturating_add(*cents);
        }
    }
    // A day that is to come may have something already: the server's clock is not the application's.
    let last_used = by_day.iter().rposition(|cents| *cents != 0).map_or(0, |place| place + 1);
    by_day.truncate(last_used.max(spending.days_past as usize));
    let so_far: Vec<f64> = by_day
        .iter()
        .scan(0_i128, |sum, cents| {
            *sum = sum.saturating_add(*cents);
            Some(*sum as f64)
        })
        .collect();
    let by_day: Vec<f64> = by_day.into_iter().map(|cents| cents as f64).collect();

    let total = Scale::of(TOTAL, so_far.iter().copied().chain(spending.monthly_limit).chain(spending.threshold));
    let daily = Scale::of(DAILY, by_day.iter().copied().chain(spending.daily_limit));
    let points: Vec<String> =
        (1..).zip(&so_far).map(|(day, v)| format!("{} {}", at(x(day)), at(total.y(*v)))).collect();
    let line = points.join("L");
    let area = match so_far.len() {
        0 => String::new(),
        n => format!("M{} {zero}L{line}L{} {zero}Z", at(x(1)), at(x(n as u32)), zero = at(total.y(0.0))),
    };
    let bars = (1..).zip(&by_day).filter(|(_, v)| **v != 0.0).map(|(day, v)| {
        let (y, zero) = (daily.y(*v), daily.y(0.0));
        let height = (y - zero).abs().max(0.5);
        let (x, width) = (at(x(day) - band * 0.35), at(band * 0.7));
        Bar { x, y: at(y.min(zero)), width, height: at(height) }
    });
    let marks = spending.alerts.iter().map(|(day, of_day)| {
        let day = (*day).clamp(1, spending.days.max(1));
        let (scale, values) = if *of_day { (&daily, &by_day) } else { (&total, &so_far) };
        let value = values.get(day as usize - 1).or(if *of_day { None } else { values.last() }).copied();
        (at(x(day)), at(scale.y(value.unwrap_or(0.0))))
    });
    Chart {
        area,
        bars: bars.collect(),
        totals: total.ticks(4.0),
        dailies: daily.ticks(3.0),
        days: [1, 8, 15, 22, 29]
            .into_iter()
            .filter(|day| *day <= spending.days)
            .map(|day| Tick { at: at(x(day)), label: day.to_string() })
            .collect(),
        monthly_limit: spending.monthly_limit.map(|v| at(total.y(v))),
        threshold: spending.threshold.map(|v| at(total.y(v))),
        daily_limit: spending.daily_limit.map(|v| at(daily.y(v))),
        marks: marks.collect(),
        line: if line.is_empty() { line } else { format!("M{line}") },
    }
}

/// A coordinate.
fn at(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded}")
}

/// A number on a scale, in as many characters as there is room for.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e15 => return format!("{value:.0e}"),
        v if v >= 1e12 => (value / 1e12, "T"),
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        _ => (value, ""),
    };
    format!("{}{unit}", grouped(&((scaled * 1000.0).round() / 1000.0).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spending<'a>(by_day: &'a [(u32, i128)]) -> Spending<'a> {
        Spending {
            days: 31,
            days_past: 31,
            by_day,
            monthly_limit: Some(10_000.0),
            threshold: Some(8_000.0),
            daily_limit: None,
            alerts: &[],
        }
    }

    fn ys(chart: &Chart) -> Vec<f64> {
        let points = chart.line.trim_start_matches('M').split('L');
        points.map(|point| point.split(' ').nth(1).unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn the_line_is_the_sum_so_far_and_ends_with_the_days_past() {
        let chart = chart(&Spending { days_past: 20, ..spending(&[(1, 2_500), (10, 2_500)]) });
        let ys = ys(&chart);
        assert_eq!(ys.len(), 20);
        assert_eq!((ys[0], ys[8], ys[9], ys[19]), (104.0, 104.0, 74.0, 74.0));
        assert_eq!((chart.monthly_limit.as_deref(), chart.threshold.as_deref()), (Some("14"), Some("38")));
        assert_eq!(chart.bars.len(), 2);
    }

    #[test]
    fn more_than_the_limit_stays_in_the_drawing_as_corrections_do() {
        for by_day in
            [&[(1, 90_000), (2, -95_000)][..], &[(3, -1)], &[(3, i128::MAX), (4, i128::MAX), (5, i128::MIN)], &[]]
        {
            let chart = chart(&spending(by_day));
            assert!(ys(&chart).iter().all(|y| (TOTAL.top..=TOTAL.bottom).contains(y)), "{chart:?}");
            for bar in &chart.bars {
                let (y, height): (f64, f64) = (bar.y.parse().unwrap(), bar.height.parse().unwrap());
                assert!(y >= DAILY.top - 0.6 && y + height <= DAILY.bottom + 0.6, "{bar:?}");
            }
            assert!(!chart.totals.is_empty() && chart.totals.len() <= 6 && chart.dailies.len() <= 5, "{chart:?}");
        }
    }

    #[test]
    fn nothing_is_drawn_of_a_month_to_come() {
        let chart = chart(&Spending { days_past: 0, ..spending(&[]) });
        assert!(chart.line.is_empty() && chart.area.is_empty() && chart.bars.is_empty());
    }

    #[test]
    fn an_alert_is_marked_where_spending_was_that_day() {
        let alerts = [(10, false), (10, true), (99, false)];
        let chart = chart(&Spending { alerts: &alerts, ..spending(&[(1, 2_500), (10, 2_500)]) });
        let ys: Vec<&str> = chart.marks.iter().map(|(_, y)| y.as_str()).collect();
        assert_eq!(ys, ["74", "154", "74"]);
    }

    #[test]
    fn scales_have_round_and_short_numbers() {
        let labels = |high: f64| -> Vec<String> {
            Scale { span: TOTAL, low: 0.0, high }.ticks(4.0).into_iter().map(|tick| tick.label).collect()
        };
        assert_eq!(labels(500_000.0), ["0", "2,000", "4,000"]);
        assert_eq!(labels(12_345_678.0), ["0", "50,000", "100,000"]);
        assert_eq!(labels(7.0), ["0", "0.02", "0.04", "0.06"]);
        assert_eq!(short(-2_500_000.0), "\u{2212}2.5M");
    }
}
