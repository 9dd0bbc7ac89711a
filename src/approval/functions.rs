//! The functions behind approval, declared in sql/approval/requests.sql: they gather what `rules` decides upon.

use super::PERMISSION;
use super::rules::{self, Decision, Refusal, Request, State, Waiting};
use crate::context::catalog::{self, APPROVAL_DECISIONS, APPROVAL_REQUESTS, TENANT_CONFIGS};
use crate::context::resolve;
use crate::error::{Code, Error, guarded};
use crate::function::{raw_function, text};
use crate::id::Id;
use crate::identity::expiry;
use crate::tenants::config::Approval;
use crate::tenants::membership;
use pgrx::pg_sys::{Datum, FunctionCallInfo, NullableDatum};
use pgrx::{FromDatum, IntoDatum, JsonB};
use serde_json::{Value, json};
use std::collections::BTreeSet;

raw_function! {
    /// `amp.approval_rules(tenant text) → jsonb`
    amp_approval_rules, pg_finfo_amp_approval_rules, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with one text argument.
        unsafe {
            guarded(|| {
                let tenant = text((*fcinfo).args.as_slice(1)[0]);
                let rules = catalog::row(&TENANT_CONFIGS, &[&tenant], |row| row.get::<JsonB>(2))?.flatten();
                let rules = rules.and_then(|JsonB(config)| config.get("approval").cloned()).unwrap_or_else(|| json!({}));
                Ok(JsonB(rules).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.approval_state(id text, rules jsonb) → jsonb`
    amp_approval_state, pg_finfo_amp_approval_state, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text and a jsonb argument.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            guarded(|| {
                let (stored, rules) = (read(&text(arguments[0]))?, parse(arguments[1])?);
                let state = match &stored.last {
                    Some(state) => state.clone(),
                    None => {
                        let able = able(&stored, &rules, None)?;
                        describe(&rules::state(&stored.request, &rules, &able, expiry::now()))
                    }
                };
                Ok(JsonB(state).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.approval_outcome(id text, rules jsonb, user_id text, decision text) → jsonb`
    amp_approval_outcome, pg_finfo_amp_approval_outcome, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with a text, a jsonb and two text arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(4);
            guarded(|| {
                let (stored, rules) = (read(&text(arguments[0]))?, parse(arguments[1])?);
                let (user, approves) = (text(arguments[2]), text(arguments[3]) == "approve");
                let outcome = outcome(&stored, &rules, &user, approves)?;
                Ok(JsonB(outcome).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.mark_request() → void`
    amp_mark_request, pg_finfo_amp_mark_request, |_fcinfo| {
        super::requested();
        Datum::null()
    }
}

raw_function! {
    /// `amp.mark_decision(tenant text, user_id text) → void`
    amp_mark_decision, pg_finfo_amp_mark_decision, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT with two text arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(2);
            guarded(|| {
                let (tenant, user) = (text(arguments[0]), text(arguments[1]));
                if let (Some(tenant), Some(user)) = (Id::parse(tenant.as_bytes()), Id::parse(user.as_bytes())) {
                    super::decided(tenant, user);
                }
                Ok(Datum::null())
            })
        }
    }
}

/// The rules, which src/tenants/config.rs has checked.
///
/// # Safety
/// `argument` is a jsonb that is not null.
unsafe fn parse(argument: NullableDatum) -> Result<Approval, Error> {
    // SAFETY: by the contract above.
    let rules = unsafe { JsonB::from_datum(argument.value, false) };
    serde_json::from_value(rules.map_or(Value::Null, |JsonB(rules)| rules)).map_err(|error| {
        Error::new(Code::InvalidDocument, "config.approval is not valid")
            .detail(error.to_string())
            .hint("Somebody has changed amp.tenant_configs by hand; set it right with amp.update_config().")
    })
}

/// A request as it is stored now.
struct Stored {
    tenant: Id,
    request: Request,
    /// Its last state, as [`describe`] shows it; None while it is pending.
    last: Option<Value>,
}

fn read(id: &str) -> Result<Stored, Error> {
    let stored = catalog::row(&APPROVAL_REQUESTS, &[id], |row| {
        let (status, decided_at) = (row.get::<String>(3).unwrap_or_default(), row.get::<i64>(5));
        let last = (status != "pending").then(|| {
            let reason = row.get::<String>(4);
            json!({"status": status, "escalated": reason.as_deref() == Some("escalation"), "reason": reason,
                   "decided_at": decided_at, "waiting_for": []})
        });
        let request =
            Request { requested_by: row.get(6), requested_at: row.get(7).unwrap_or_default(), decisions: Vec::new() };
        (row.get::<String>(2).and_then(|tenant| Id::parse(tenant.as_bytes())), request, last)
    })?;
    let Some((Some(tenant), mut request, mut last)) = stored else {
        return Err(Error::new(Code::UndefinedObject, format!("approval request \"{id}\" is unknown"))
            .hint("See amp.approvals()."));
    };
    request.decisions = catalog::rows(&APPROVAL_DECISIONS, &[id], |row| Decision {
        user: row.get(2).unwrap_or_default(),
        approves: row.get::<String>(3).as_deref() == Some("approve"),
        at: row.get(4).unwrap_or_default(),
    })?;
    // A rejection waits for nobody, and beats the approval that was written down beside it.
    if last.as_ref().is_some_and(|last| last["status"] == "approved")
        && let Some(rejection) = request.decisions.iter().find(|decision| !decision.approves)
    {
        last = Some(json!({"status": "rejected", "escalated": false, "reason": "decided", "decided_at": rejection.at,
                           "waiting_for": []}));
    }
    Ok(Stored { tenant, request, last })
}

/// Those of the people who matter who are in the tenant and may approve, now.
fn able(stored: &Stored, rules: &Approval, actor: Option<&str>) -> Result<BTreeSet<String>, Error> {
    resolve::listen();
    let named = rules.approvers.iter().chain(&rules.escalation_to).map(|user| user.0.as_str());
    let decided = stored.request.decisions.iter().map(|decision| decision.user.as_str());
    let candidates: BTreeSet<&str> = named.chain(decided).chain(actor).collect();
    let mut able = BTreeSet::new();
    for user in candidates {
        let Some(id) = Id::parse(user.as_bytes()) else { continue };
        if membership::holds(&stored.tenant, &id, PERMISSION)? {
            able.insert(user.to_owned());
        }
    }
    Ok(able)
}

fn outcome(stored: &Stored, rules: &Approval, user: &str, approves: bool) -> Result<Value, Error> {
    if let Some(last) = &stored.last {
        return Ok(refused("final", last.clone()));
    }
    let clock = expiry::now();
    let able = able(stored, rules, Some(user))?;
    Ok(match rules::decide(&stored.request, rules, &able, clock, user, approves) {
        Ok(state) => {
            let mut state = describe(&state);
            state["at"] = json!(clock);
            state
        }
        Err(Refusal::Repeated) => refused("repeated", json!({})),
        Err(Refusal::Final(state)) => refused("final", describe(&state)),
        Err(Refusal::Own) => refused("own", json!({})),
        Err(Refusal::Decided) => refused("decided", json!({})),
        Err(Refusal::NotHisTurn(waiting_for)) => {
            refused("turn", describe(&State::Pending { escalated: false, waiting_for }))
        }
    })
}

fn refused(why: &str, mut state: Value) -> Value {
    state["refused"] = json!(why);
    state
}

/// A state as SQL reads it; times in PostgreSQL's microseconds.
fn describe(state: &State) -> Value {
    match state {
        State::Pending { escalated, waiting_for } => json!({
            "status": "pending", "reason": null, "decided_at": null, "escalated": escalated,
            "waiting_for": match waiting_for {
                Waiting::Anybody => Value::Null,
                Waiting::These(users) => json!(users),
            },
        }),
        State::Final { status, reason, at } => json!({
            "status": status, "reason": reason, "decided_at": at, "escalated": *reason == "escalation", "waiting_for": [],
        }),
    }
}
