//! The state of an approval request, as a decision. Pure.
//!
//! A time that has come holds from exactly that instant on. What time decides (auto-approval, expiry) cannot be undone by people
//! afterwards, and is dated when it was due, whenever somebody looks. People decide at the moment they do; their decision is stored with
//! the state that follows from it. Found here later is only what followed from somebody's leaving.

use crate::tenants::config::{Approval, Order};
use std::collections::BTreeSet;

/// An hour, in PostgreSQL's microseconds.
const HOUR: i64 = 3_600_000_000;

/// What nobody has decided in this time, and no auto-approval will, expires: 30 days.
const EXPIRES_AFTER: u64 = 30 * 24;

/// What is stored of a request that is still pending there.
#[derive(Clone)]
pub(super) struct Request {
    /// None for a service that acted as the tenant itself.
    pub(super) requested_by: Option<String>,
    pub(super) requested_at: i64,
    pub(super) decisions: Vec<Decision>,
}

#[derive(Clone)]
pub(super) struct Decision {
    pub(super) user: String,
    pub(super) approves: bool,
    pub(super) at: i64,
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum State {
    Pending {
        /// The time of escalation has come.
        escalated: bool,
        waiting_for: Waiting,
    },
    Final {
        status: &'static str,
        reason: &'static str,
        at: i64,
    },
}

/// Who may decide now.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Waiting {
    /// Whoever holds content.approve, but for the requester.
    Anybody,
    These(Vec<String>),
}

/// Why somebody's decision does not count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was made before; nothing is wrong.
    Repeated,
    /// The request is not pending any more.
    Final(State),
    /// Nobody decides about what he requests himself.
    Own,
    /// He has decided the other way.
    Decided,
    /// He is not among those who may decide now.
    NotHisTurn(Waiting),
}

fn due(request: &Request, hours: u64) -> i64 {
    request.requested_at.saturating_add(HOUR.saturating_mul(i64::try_from(hours).unwrap_or(i64::MAX)))
}

/// The state at `clock`; `able` are those, of all who matter here, who are in the tenant and hold content.approve.
pub(super) fn state(request: &Request, rules: &Approval, able: &BTreeSet<String>, clock: i64) -> State {
    if let Some(rejection) = request.decisions.iter().find(|decision| !decision.approves) {
        return State::Final { status: "rejected", reason: "decided", at: rejection.at };
    }
    let may = |user: &str| able.contains(user) && request.requested_by.as_deref() != Some(user);
    let approved_at = |user: &str| request.decisions.iter().find(|decision| decision.user == user).map(|it| it.at);
    let mut named: Vec<&str> = Vec::new();
    for user in rules.approvers.iter().map(|user| user.0.as_str()).filter(|user| may(user)) {
        if !named.contains(&user) {
            named.push(user);
        }
    }
    let open: Vec<&str> = named.iter().copied().filter(|user| approved_at(user).is_none()).collect();
    let order = rules.approval_order.unwrap_or(Order::Any);

    let decided = if rules.approvers.is_empty() {
        request.decisions.iter().filter(|decision| may(&decision.user)).map(|decision| decision.at).min()
    } else {
        match order {
            Order::Any => named.iter().filter_map(|user| approved_at(user)).min(),
            // None of them able: nobody has approved, whoever is gone by now.
            Order::All | Order::Sequential if open.is_empty() => {
                named.iter().filter_map(|user| approved_at(user)).max()
            }
            Order::All | Order::Sequential => None,
        }
    };

    let escalates_at = rules.escalation_to.as_ref().and_then(|_| {
        if !rules.approvers.is_empty() && named.is_empty() {
            return Some(request.requested_at); // there is nobody else
        }
        rules.escalation_after_hours.as_ref().map(|hours| due(request, hours.0))
    });
    let escalates_at = escalates_at.filter(|at| *at <= clock);
    let superior = rules.escalation_to.as_ref().map(|user| user.0.as_str()).filter(|user| may(user));
    let superior = superior.filter(|_| escalates_at.is_some());
    let escalation = superior.and_then(approved_at).zip(escalates_at).map(|(at, from)| at.max(from));

    let by_time = match &rules.auto_approve_after_hours {
        Some(hours) => ("approved", "auto", due(request, hours.0)),
        None => ("expired", "timeout", due(request, EXPIRES_AFTER)),
    };
    let by_time = Some(by_time).filter(|(.., at)| *at <= clock);
    match (by_time, decided, escalation) {
        (Some((status, reason, at)), _, escalation) if escalation.is_none_or(|earlier| earlier > at) => {
            State::Final { status, reason, at }
        }
        (_, Some(at), _) => State::Final { status: "approved", reason: "decided", at },
        (_, None, Some(at)) => State::Final { status: "approved", reason: "escalation", at },
        _ => {
            let waiting_for = if rules.approvers.is_empty() {
                Waiting::Anybody
            } else {
                let turn = if order == Order::Sequential { &open[..open.len().min(1)] } else { &open[..] };
                let superior = superior.filter(|user| !turn.contains(user) && approved_at(user).is_none());
                Waiting::These(turn.iter().copied().chain(superior).map(str::to_owned).collect())
            };
            State::Pending { escalated: escalates_at.is_some(), waiting_for }
        }
    }
}

/// The state that follows from `user`'s approving or rejecting at `clock`.
pub(super) fn decide(
    request: &Request,
    rules: &Approval,
    able: &BTreeSet<String>,
    clock: i64,
    user: &str,
    approves: bool,
) -> Result<State, Refusal> {
    let earlier = request.decisions.iter().find(|decision| decision.user == user);
    if earlier.is_some_and(|decision| decision.approves == approves) {
        return Err(Refusal::Repeated);
    }
    let waiting_for = match state(request, rules, able, clock) {
        State::Pending { waiting_for, .. } => waiting_for,
        decided => return Err(Refusal::Final(decided)),
    };
    if request.requested_by.as_deref() == Some(user) {
        return Err(Refusal::Own);
    }
    if earlier.is_some() {
        return Err(Refusal::Decided);
    }
    let may = match &waiting_for {
        Waiting::Anybody => able.contains(user),
        Waiting::These(users) => users.iter().any(|other| other == user),
    };
    if !may {
        return Err(Refusal::NotHisTurn(waiting_for));
    }
    let mut request = request.clone();
    request.decisions.push(Decision { user: user.to_owned(), approves, at: clock });
    Ok(state(&request, rules, able, clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Requests are made at 0 by req, who is able himself; clocks are in hours.
    struct Case {
        rules: Value,
        able: &'static str,
        approvals: &'static [(&'static str, i64)],
        clock: f64,
        is: State,
    }

    fn pending(escalated: bool, waiting_for: &str) -> State {
        let these = Waiting::These(waiting_for.split_whitespace().map(str::to_owned).collect());
        State::Pending { escalated, waiting_for: these }
    }

    fn anybody(escalated: bool) -> State {
        State::Pending { escalated, waiting_for: Waiting::Anybody }
    }

    fn last(status: &'static str, reason: &'static str, hours: i64) -> State {
        State::Final { status, reason, at: hours * HOUR }
    }

    fn request(approvals: &[(&str, i64)]) -> Request {
        let decision = |(user, at): &(&str, i64)| Decision { user: (*user).to_owned(), approves: true, at: at * HOUR };
        Request {
            requested_by: Some("req".into()),
            requested_at: 0,
            decisions: approvals.iter().map(decision).collect(),
        }
    }

    fn people(list: &str) -> BTreeSet<String> {
        list.split_whitespace().map(str::to_owned).collect()
    }

    fn rules(rules: &Value) -> Approval {
        serde_json::from_value(rules.clone()).unwrap()
    }

    fn at(hours: f64) -> i64 {
        (hours * HOUR as f64) as i64
    }

    #[test]
    fn every_state() {
        let none = || json!({});
        let any = || json!({"approvers": ["a", "b"]});
        let all = || json!({"approvers": ["a", "b", "c"], "approval_order": "all"});
        let row = || json!({"approvers": ["a", "b", "c"], "approval_order": "sequential"});
        let boss = || json!({"approvers": ["a", "b"], "approval_order": "all", "escalation_after_hours": 12, "escalation_to": "boss"});
        let cases = [
            // Nobody named.
            Case { rules: none(), able: "req a", approvals: &[], clock: 0.0, is: anybody(false) },
            Case { rules: none(), able: "", approvals: &[], clock: 719.999, is: anybody(false) },
            Case { rules: none(), able: "a", approvals: &[("a", 1)], clock: 1.0, is: last("approved", "decided", 1) },
            Case { rules: none(), able: "", approvals: &[("a", 1)], clock: 2.0, is: anybody(false) },
            Case { rules: none(), able: "req", approvals: &[("req", 1)], clock: 2.0, is: anybody(false) },
            // Expiry, and what comes before and instead of it.
            Case { rules: none(), able: "", approvals: &[], clock: 720.0, is: last("expired", "timeout", 720) },
            Case {
                rules: none(),
                able: "a",
                approvals: &[("a", 1)],
                clock: 720.0,
                is: last("expired", "timeout", 720),
            },
            Case {
                rules: json!({"auto_approve_after_hours": 8760}),
                able: "",
                approvals: &[],
                clock: 8759.99,
                is: anybody(false),
            },
            Case {
                rules: json!({"auto_approve_after_hours": 24}),
                able: "",
                approvals: &[],
                clock: 23.999,
                is: anybody(false),
            },
            Case {
                rules: json!({"auto_approve_after_hours": 24}),
                able: "",
                approvals: &[],
                clock: 24.0,
                is: last("approved", "auto", 24),
            },
            // Any.
            Case { rules: any(), able: "a b c", approvals: &[], clock: 0.0, is: pending(false, "a b") },
            Case { rules: any(), able: "b c", approvals: &[], clock: 0.0, is: pending(false, "b") },
            Case { rules: any(), able: "c", approvals: &[], clock: 0.0, is: pending(false, "") },
            Case { rules: any(), able: "a b", approvals: &[("b", 2)], clock: 3.0, is: last("approved", "decided", 2) },
            Case { rules: any(), able: "a", approvals: &[("b", 2)], clock: 3.0, is: pending(false, "a") },
            Case { rules: any(), able: "a b c", approvals: &[("c", 2)], clock: 3.0, is: pending(false, "a b") },
            Case {
                rules: json!({"approvers": ["req", "a", "a"]}),
                able: "req a",
                approvals: &[],
                clock: 0.0,
                is: pending(false, "a"),
            },
            // All.
            Case { rules: all(), able: "a b c", approvals: &[], clock: 0.0, is: pending(false, "a b c") },
            Case { rules: all(), able: "a b c", approvals: &[("b", 1)], clock: 1.0, is: pending(false, "a c") },
            Case { rules: all(), able: "a c", approvals: &[("b", 1)], clock: 1.0, is: pending(false, "a c") },
            Case { rules: all(), able: "b", approvals: &[("b", 1)], clock: 5.0, is: last("approved", "decided", 1) },
            Case { rules: all(), able: "", approvals: &[("b", 1)], clock: 5.0, is: pending(false, "") },
            Case { rules: all(), able: "", approvals: &[], clock: 5.0, is: pending(false, "") },
            Case {
                rules: all(),
                able: "a b c",
                approvals: &[("b", 1), ("a", 4), ("c", 3)],
                clock: 5.0,
                is: last("approved", "decided", 4),
            },
            // One after the other.
            Case { rules: row(), able: "a b c", approvals: &[], clock: 0.0, is: pending(false, "a") },
            Case { rules: row(), able: "b c", approvals: &[], clock: 0.0, is: pending(false, "b") },
            Case { rules: row(), able: "a b c", approvals: &[("a", 1)], clock: 1.0, is: pending(false, "b") },
            Case {
                rules: row(),
                able: "a b",
                approvals: &[("a", 1), ("b", 2)],
                clock: 2.0,
                is: last("approved", "decided", 2),
            },
            Case { rules: row(), able: "a b c", approvals: &[("b", 1)], clock: 1.0, is: pending(false, "a") },
            // Escalation: in time, at once where nobody else is able, never by the requester or one who is not able.
            Case { rules: boss(), able: "a b boss", approvals: &[], clock: 11.999, is: pending(false, "a b") },
            Case { rules: boss(), able: "a b boss", approvals: &[], clock: 12.0, is: pending(true, "a b boss") },
            Case { rules: boss(), able: "a b", approvals: &[], clock: 12.0, is: pending(true, "a b") },
            Case { rules: boss(), able: "boss", approvals: &[], clock: 0.0, is: pending(true, "boss") },
            Case { rules: boss(), able: "", approvals: &[], clock: 0.0, is: pending(true, "") },
            Case {
                rules: boss(),
                able: "a b boss",
                approvals: &[("boss", 13)],
                clock: 13.0,
                is: last("approved", "escalation", 13),
            },
            Case {
                rules: boss(),
                able: "a b boss",
                approvals: &[("boss", 13)],
                clock: 721.0,
                is: last("approved", "escalation", 13),
            },
            Case {
                rules: json!({"approvers": ["a", "b"], "escalation_after_hours": 12, "escalation_to": "req"}),
                able: "a b req",
                approvals: &[],
                clock: 13.0,
                is: pending(true, "a b"),
            },
            Case {
                rules: json!({"escalation_after_hours": 12, "escalation_to": "boss"}),
                able: "boss",
                approvals: &[],
                clock: 12.0,
                is: anybody(true),
            },
            Case {
                rules: json!({"approvers": ["a"], "escalation_to": "boss"}),
                able: "a boss",
                approvals: &[],
                clock: 99.0,
                is: pending(false, "a"),
            },
            // One of them is the one it escalates to: what he has approved counts alone from then on.
            Case {
                rules: json!({"approvers": ["a", "b"], "approval_order": "all", "escalation_after_hours": 12, "escalation_to": "a"}),
                able: "a b",
                approvals: &[("a", 1)],
                clock: 11.0,
                is: pending(false, "b"),
            },
            Case {
                rules: json!({"approvers": ["a", "b"], "approval_order": "all", "escalation_after_hours": 12, "escalation_to": "a"}),
                able: "a b",
                approvals: &[("a", 1)],
                clock: 12.0,
                is: last("approved", "escalation", 12),
            },
            // What time has decided stays.
            Case {
                rules: json!({"approvers": ["a", "b"], "approval_order": "all", "auto_approve_after_hours": 24}),
                able: "a",
                approvals: &[("a", 1)],
                clock: 25.0,
                is: last("approved", "auto", 24),
            },
        ];
        for case in cases {
            let found = state(&request(case.approvals), &rules(&case.rules), &people(case.able), at(case.clock));
            let (approvals, able) = (case.approvals, case.able);
            assert_eq!(found, case.is, "{} able {able:?} approvals {approvals:?} clock {}", case.rules, case.clock);
        }
    }

    #[test]
    fn a_rejection_ends_it() {
        let mut rejected = request(&[("a", 1)]);
        rejected.decisions.push(Decision { user: "b".into(), approves: false, at: 2 * HOUR });
        let rules = rules(&json!({"auto_approve_after_hours": 1}));
        assert_eq!(state(&rejected, &rules, &people("a"), at(99.0)), last("rejected", "decided", 2));
    }

    #[test]
    fn a_clock_far_away_overflows_nothing() {
        let late = Request { requested_by: None, requested_at: i64::MAX - 1, decisions: Vec::new() };
        assert_eq!(state(&late, &Approval::default(), &people(""), 0), anybody(false));
    }

    #[test]
    fn who_may_decide() {
        let row = json!({"approvers": ["a", "b"], "approval_order": "sequential", "escalation_after_hours": 12, "escalation_to": "boss"});
        let all = json!({"approvers": ["a", "b"], "approval_order": "all"});
        let turn = |users: &str| {
            Err(Refusal::NotHisTurn(Waiting::These(users.split_whitespace().map(str::to_owned).collect())))
        };
        let able = "req a b c boss";
        for (rules_of, able, approvals, clock, user, approves, follows) in [
            (&row, able, &[][..], 0.0, "a", true, Ok(pending(false, "b"))),
            (&row, able, &[], 0.0, "a", false, Ok(last("rejected", "decided", 0))),
            (&row, able, &[], 0.0, "b", true, turn("a")),
            (&row, able, &[], 0.0, "b", false, turn("a")),
            (&row, able, &[], 0.0, "c", true, turn("a")),
            (&row, able, &[], 11.9, "boss", true, turn("a")),
            (&row, able, &[], 12.0, "boss", true, Ok(last("approved", "escalation", 12))),
            (&row, able, &[], 12.0, "boss", false, Ok(last("rejected", "decided", 12))),
            (&row, "b boss", &[], 0.0, "boss", true, turn("b")),
            (&row, "boss", &[], 0.0, "boss", true, Ok(last("approved", "escalation", 0))),
            (&row, able, &[], 0.0, "req", true, Err(Refusal::Own)),
            (&row, able, &[("a", 1)], 2.0, "a", true, Err(Refusal::Repeated)),
            (&row, able, &[("a", 1)], 2.0, "a", false, Err(Refusal::Decided)),
            (&row, able, &[("a", 1)], 2.0, "b", true, Ok(last("approved", "decided", 2))),
            (&row, "", &[], 0.0, "a", true, turn("")),
            (&all, able, &[("b", 1)], 2.0, "a", true, Ok(last("approved", "decided", 2))),
            (&all, able, &[], 720.0, "a", true, Err(Refusal::Final(last("expired", "timeout", 720)))),
            (&all, able, &[("a", 1)], 720.0, "a", true, Err(Refusal::Repeated)),
            (&json!({}), able, &[], 1.0, "c", true, Ok(last("approved", "decided", 1))),
            (&json!({}), "", &[], 1.0, "c", true, Err(Refusal::NotHisTurn(Waiting::Anybody))),
            (&json!({}), able, &[], 1.0, "req", true, Err(Refusal::Own)),
            (&json!({"approvers": ["a"]}), able, &[], 1.0, "a", true, Ok(last("approved", "decided", 1))),
        ] {
            let found = decide(&request(approvals), &rules(rules_of), &people(able), at(clock), user, approves);
            assert_eq!(found, follows, "{rules_of} able {able:?} {approvals:?} at {clock}: {user} {approves}");
        }
    }
}
