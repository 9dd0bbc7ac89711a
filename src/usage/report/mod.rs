//! The page of a report: what the numbers are called, how they are written, what is drawn. The template is report.html, with report.css
//! and report.js, which its Content-Security-Policy allows by their hashes; nothing else is loaded or run. Pure.
//!
//! Amounts come as texts of whole cents, percentages as PostgreSQL wrote them; they are shown digit by digit, never through a float.

mod ascii;
mod chart;
mod functions;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chart::{Chart, Spending};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// How many alerts of a tenant are written out.
const ALERTS_SHOWN: usize = 10;

/// What sql/usage/report.sql passes.
#[derive(Deserialize)]
struct Report {
    year: u32,
    month: usize,
    days: u32,
    days_past: u32,
    generated_at: String,
    account: Option<Account>,
    totals: Totals,
    tenants: Vec<Tenant>,
}

#[derive(Deserialize)]
struct Account {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Totals {
    tenants: u64,
    cost: String,
    previous: String,
    trend: Option<String>,
    limited: u64,
    over_threshold: u64,
    over_limit: u64,
}

#[derive(Deserialize)]
struct Tenant {
    id: String,
    name: String,
    status: String,
    account_id: Option<String>,
    state: State,
    usage: Vec<String>,
    cost: String,
    share: Option<String>,
    previous: String,
    trend: Option<String>,
    limit: Option<String>,
    daily_limit: Option<String>,
    threshold: Option<String>,
    used: Option<String>,
    hard_stop: bool,
    alerts: Vec<Alert>,
    by_day: Option<Vec<(u32, String)>>,
}

/// Where a tenant's spending is against its monthly limit.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum State {
    NoLimit,
    Within,
    OverThreshold,
    OverLimit,
}

#[derive(Deserialize)]
struct Alert {
    period: String,
    threshold_percent: i64,
    limit_cents: i128,
    raised_at: String,
}

#[derive(Template)]
#[template(path = "usage/report/report.html")]
struct Page<'a> {
    style: &'a str,
    style_hash: String,
    script: &'a str,
    script_hash: String,
    month: String,
    /// The month that it is compared with.
    before: String,
    /// Whether the month is not over.
    so_far: bool,
    report: &'a Report,
    cards: Vec<Card<'a>>,
    width: f64,
    height: f64,
}

/// A tenant with a chart.
struct Card<'a> {
    tenant: &'a Tenant,
    chart: Chart,
    /// What the chart shows, for who does not see it.
    summary: String,
    /// Its numbers: day, cost, cost so far.
    days: Vec<(u32, String, String)>,
}

/// The page of a report in JSON.
pub(super) fn page(report: &str) -> Result<String, Box<dyn std::error::Error>> {
    let report: Report = serde_json::from_str(report)?;
    let name = |place: usize, year: u32| format!("{} {year}", MONTHS.get(place).unwrap_or(&"?"));
    let before = match report.month {
        0 | 1 => name(11, report.year.saturating_sub(1)),
        month => name(month - 2, report.year),
    };
    let month = name(report.month.wrapping_sub(1), report.year);
    let page = Page {
        style: STYLE,
        style_hash: hash(STYLE),
        script: SCRIPT,
        script_hash: hash(SCRIPT),
        before,
        so_far: report.days_past < report.days,
        cards: report.tenants.iter().filter_map(|tenant| card(tenant, &report, &month)).collect(),
        month,
        report: &report,
        width: chart::WIDTH,
        height: chart::HEIGHT,
    };
    Ok(page.render()?)
}

/// As Content-Security-Policy takes it.
fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// The chart of a tenant, if it had any cost.
fn card<'a>(tenant: &'a Tenant, report: &Report, month: &str) -> Option<Card<'a>> {
    let by_day: Vec<(u32, i128)> = tenant.by_day.iter().flatten().map(|(day, cents)| (*day, whole(cents))).collect();
    if by_day.is_empty() {
        return None;
    }
    let limit = tenant.limit.as_deref().and_then(|limit| limit.parse::<f64>().ok());
    let percent = tenant.threshold.as_deref().and_then(|percent| percent.parse::<f64>().ok());
    let alerts: Vec<(u32, bool)> = tenant.alerts.iter().map(|alert| alert.place(report)).collect();
    let chart = chart::chart(&Spending {
        days: report.days,
        days_past: report.days_past,
        by_day: &by_day,
        monthly_limit: limit,
        threshold: limit.zip(percent).map(|(limit, percent)| limit * percent / 100.0),
        daily_limit: tenant.daily_limit.as_deref().and_then(|limit| limit.parse().ok()),
        alerts: &alerts,
    });
    let mut sum = 0_i128;
    let days = by_day
        .iter()
        .map(|(day, cents)| {
            sum = sum.saturating_add(*cents);
            (*day, money(&cents.to_string()), money(&sum.to_string()))
        })
        .collect();
    let (most_day, most) =
        by_day.iter().max_by_key(|(day, cents)| (*cents, u32::MAX - day)).copied().unwrap_or_default();
    let against = match (&tenant.limit, &tenant.used) {
        (Some(limit), Some(used)) => format!("{} percent of the limit of {}", grouped(used), money(limit)),
        _ => "there is no monthly limit".to_owned(),
    };
    let summary = format!(
        "Spending in {month}: {}, {against}. The most expensive day was {most_day} {month} with {}.",
        money(&tenant.cost),
        money(&most.to_string())
    );
    Some(Card { tenant, chart, summary, days })
}

impl Report {
    /// Whether a column says which account a tenant is in.
    fn has_accounts(&self) -> bool {
        self.account.is_none() && self.tenants.iter().any(|tenant| tenant.account_id.is_some())
    }

    fn has_usage(&self) -> bool {
        self.tenants.iter().any(|tenant| tenant.usage.iter().any(|amount| amount != "0"))
    }
}

impl Tenant {
    fn state(&self) -> &'static str {
        match self.state {
            State::NoLimit => "no limit",
            State::Within => "within limit",
            State::OverThreshold => "over threshold",
            State::OverLimit if self.hard_stop => "stopped at limit",
            State::OverLimit => "over limit",
        }
    }

    /// For the style and the script.
    fn state_class(&self) -> &'static str {
        match self.state {
            State::NoLimit => "none",
            State::Within => "within",
            State::OverThreshold => "near",
            State::OverLimit => "over",
        }
    }

    /// How much of a bar is filled, of 100.
    fn filled(&self) -> Option<f64> {
        self.used.as_deref().and_then(|used| used.parse::<f64>().ok()).map(|used| used.clamp(0.0, 100.0))
    }

    fn first_alerts(&self) -> &[Alert] {
        &self.alerts[..self.alerts.len().min(ALERTS_SHOWN)]
    }

    fn more_alerts(&self) -> usize {
        self.alerts.len().saturating_sub(ALERTS_SHOWN)
    }
}

impl Alert {
    /// The day it is marked at, and whether it is about that day alone.
    fn place(&self, report: &Report) -> (u32, bool) {
        let day = |date: &str| date.get(8..10).and_then(|day| day.parse().ok());
        if self.period.len() > 7 {
            return (day(&self.period).unwrap_or(1), true);
        }
        let raised_then = self.raised_at.get(..7) == Some(&self.period);
        (if raised_then { day(&self.raised_at).unwrap_or(1) } else { report.days }, false)
    }

    fn text(&self) -> String {
        let whose = match self.period.len() > 7 {
            false => "a month".to_owned(),
            true if self.raised_at.starts_with(&self.period) => "a day".to_owned(),
            true => format!("a day, of {}", self.period),
        };
        format!("{} % of {} {whose}", self.threshold_percent, money(&self.limit_cents.to_string()))
    }

    /// To the minute.
    fn raised(&self) -> String {
        self.raised_at.get(..16).unwrap_or(&self.raised_at).replace('T', " ")
    }
}

/// Whole cents; as many as there can be at most, for more.
fn whole(cents: &str) -> i128 {
    cents.parse().unwrap_or(if cents.starts_with('-') { i128::MIN } else { i128::MAX })
}

/// Cents in units of a hundred: 123456 is 1,234.56.
fn money(cents: &str) -> String {
    let (sign, cents) = split_sign(cents);
    let (whole, rest) = cents.split_once('.').unwrap_or((cents, ""));
    let padded = format!("{whole:0>3}");
    let (units, hundredths) = padded.split_at(padded.len() - 2);
    format!("{sign}{}.{hundredths}{rest}", separated(units))
}

/// A number as PostgreSQL writes it, with separators: 12345.60 is 12,345.60.
pub(super) fn grouped(number: &str) -> String {
    let (sign, digits) = split_sign(number);
    match digits.split_once('.') {
        Some((whole, rest)) => format!("{sign}{}.{rest}", separated(whole)),
        None => format!("{sign}{}", separated(digits)),
    }
}

/// The same, with a plus where it is more than nothing.
fn signed(number: &str) -> String {
    let plus = !number.starts_with('-') && number.bytes().any(|digit| (b'1'..=b'9').contains(&digit));
    format!("{}{}", if plus { "+" } else { "" }, grouped(number))
}

fn split_sign(number: &str) -> (&'static str, &str) {
    number.strip_prefix('-').map_or(("", number), |digits| ("\u{2212}", digits))
}

/// Digits in groups of three.
fn separated(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tenant(name: &str) -> Value {
        json!({
            "id": "tnt_a", "name": name, "status": "active", "account_id": null, "state": "over_threshold",
            "usage": ["12", "456", "423", "34567", "2345678", "89"], "cost": "456789", "share": "100.00", "previous": "400000",
            "trend": "14.20", "limit": "500000", "daily_limit": "20000", "threshold": "80", "used": "91.36", "hard_stop": true,
            "alerts": [{"period": "2024-01", "threshold_percent": 80, "threshold_cents": 400000, "limit_cents": 500000,
                        "spent_cents": 400100, "hard_stop": true, "raised_at": "2024-01-20T10:30:00Z"}],
            "by_day": [[1, "400000"], [20, "56789"]]
        })
    }

    fn report(tenants: Value) -> String {
        let count = tenants.as_array().unwrap().len();
        json!({
            "year": 2024, "month": 1, "days": 31, "days_past": 31, "generated_at": "2024-02-01T00:00:00Z", "account": null,
            "totals": {"tenants": count, "cost": "456789", "previous": "400000", "trend": "14.20", "limited": count,
                       "over_threshold": count, "over_limit": 0},
            "tenants": tenants
        })
        .to_string()
    }

    #[test]
    fn numbers_are_written_digit_by_digit() {
        for (cents, text) in [
            ("0", "0.00"),
            ("7", "0.07"),
            ("-7", "\u{2212}0.07"),
            ("45600", "456.00"),
            ("123456", "1,234.56"),
            ("100000000", "1,000,000.00"),
            ("170141183460469231731687303715884105728000", "1,701,411,834,604,692,317,316,873,037,158,841,057,280.00"),
        ] {
            assert_eq!(money(cents), text);
        }
        assert_eq!((grouped("1234567.50"), grouped("-999")), ("1,234,567.50".into(), "\u{2212}999".into()));
        assert_eq!((signed("0.00"), signed("12.5"), signed("-3")), ("0.00".into(), "+12.5".into(), "\u{2212}3".into()));
    }

    #[test]
    fn the_page_has_the_numbers_and_is_ascii() {
        let page = page(&report(json!([tenant("Größe \u{202E}\u{2028}")]))).unwrap();
        assert!(page.is_ascii());
        for text in [
            "January 2024",
            "December 2023",
            "4,567.89",
            "4,000.00",
            "+14.20",
            "91.36",
            "2,345,678",
            "2024-01-20 10:30",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.contains("Gr&#xF6;&#xDF;e &#x202E;&#x2028;"));
    }

    #[test]
    fn a_name_is_text_wherever_it_is() {
        let plain = page(&report(json!([tenant("x")]))).unwrap();
        for name in [
            "<script>alert(1)</script>",
            "\"' onload=alert(1) x='\"",
            "--><svg><!--",
            "{{ 7 * 7 }}",
            "</title></style>",
        ] {
            let page = page(&report(json!([tenant(name)]))).unwrap();
            assert!(!page.contains(name) || !name.contains(['<', '"']), "{name}");
            let tags = |page: &str| page.matches('<').count();
            assert_eq!(tags(&page), tags(&plain), "{name}");
        }
    }

    #[test]
    fn the_policy_allows_exactly_what_is_there() {
        let page = page(&report(json!([]))).unwrap();
        let between = |open: &str, close: &str| page.split(open).nth(1).unwrap().split(close).next().unwrap();
        assert!(page.contains(&format!("style-src 'sha256-{}'", hash(between("<style>", "</style>")))));
        assert!(page.contains(&format!("script-src 'sha256-{}'", hash(between("<script>", "</script>")))));
        assert_eq!(page.matches("<style").count() + page.matches("<script").count(), 2);
        assert!(!page.contains(" style=") && !page.contains("javascript:") && !page.contains("://"));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(page("").is_err() && page("{}").is_err() && page("[1").is_err());
    }
}
