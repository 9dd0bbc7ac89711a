//! Statements that hold up other tenants, or leave in a pooled session what the next borrower meets.

use super::{explain, hardening, held_cursors, leftovers, subject};
use crate::context::{resolve, session, settings, transaction};
use crate::error::{self, Code, Error};
use crate::identity::{self, proof};
use crate::utility::Call;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

unsafe extern "C-unwind" {
    // Not in pgrx's bindings.
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// False for statements that nothing here is about.
fn is_looked_at(statement: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::*;
    matches!(
        statement,
        T_ExplainStmt
            | T_LockStmt
            | T_DeclareCursorStmt
            | T_FetchStmt
            | T_PrepareStmt
            | T_TransactionStmt
            | T_ListenStmt
            | T_VariableSetStmt
            | T_AlterRoleStmt
            | T_AlterRoleSetStmt
            | T_DropOwnedStmt
    )
}

/// What is left to do when the statement has run.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    Explained,
    Declared(*const c_char),
    Prepared(*const c_char),
}

/// # Safety
/// As a handler of [`crate::utility`].
pub(crate) unsafe fn utility(call: Call) {
    // SAFETY: by the contract above the statement lives; this frame owns nothing, so an error may jump over it.
    unsafe {
        let statement = (*call.statement).utilityStmt;
        let after =
            if is_looked_at((*statement).type_) { error::guarded(|| before(statement)) } else { After::Nothing };
        call.proceed();
        match after {
            After::Nothing => {}
            After::Explained => error::guarded(|| {
                explain::end();
                Ok(())
            }),
            After::Declared(name) => error::guarded(|| {
                held_cursors::declared(name);
                Ok(())
            }),
            After::Prepared(name) => error::guarded(|| {
                leftovers::prepared(name);
                Ok(())
            }),
        }
    }
}

/// Refuses a statement, or says what follows it. A transaction that has failed knows no catalog: it is only told of its end.
/// Errors: TN004.
///
/// # Safety
/// A live statement.
unsafe fn before(statement: *mut pg_sys::Node) -> Result<After, Error> {
    use pg_sys::NodeTag::*;
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*statement).type_ {
            T_ExplainStmt if explain::begin() => return Ok(After::Explained),
            T_LockStmt => check_lock(&*statement.cast::<pg_sys::LockStmt>())?,
            T_DeclareCursorStmt => {
                let statement = &*statement.cast::<pg_sys::DeclareCursorStmt>();
                if statement.options & pg_sys::CURSOR_OPT_HOLD as c_int != 0 {
                    if subject::is_borrowed() {
                        return Err(outlives(
                            "a cursor WITH HOLD cannot be declared in this session",
                            "Declare it without HOLD, and fetch from it in this transaction.",
                        ));
                    }
                    return Ok(After::Declared(statement.portalname));
                }
            }
            T_FetchStmt => held_cursors::check_fetch((*statement.cast::<pg_sys::FetchStmt>()).portalname)?,
            T_PrepareStmt if subject::is_borrowed() => {
                if !pg_sys::IsTransactionBlock() {
                    return Err(outlives(
                        "PREPARE outside of a transaction is not for this session",
                        "Prepare it by the protocol, as drivers do, or in the transaction that executes it.",
                    ));
                }
                return Ok(After::Prepared((*statement.cast::<pg_sys::PrepareStmt>()).name));
            }
            T_TransactionStmt => {
                let statement = &*statement.cast::<pg_sys::TransactionStmt>();
                if statement.kind == pg_sys::TransactionStmtKind::TRANS_STMT_PREPARE
                    && pg_sys::IsTransactionState()
                    && subject::is_guarded()
                    && subject::is_ordinary()
                {
                    check_prepare()?;
                }
            }
            T_ListenStmt if subject::is_guarded() && subject::is_ordinary() => {
                check_channel(CStr::from_ptr((*statement.cast::<pg_sys::ListenStmt>()).conditionname))?;
            }
            T_AlterRoleStmt | T_AlterRoleSetStmt | T_DropOwnedStmt if subject::is_guarded() => check_role_change()?,
            T_VariableSetStmt if !(*statement.cast::<pg_sys::VariableSetStmt>()).is_local => leftovers::note_set(),
            _ => {}
        }
    }
    Ok(After::Nothing)
}

fn outlives(message: &str, hint: &str) -> Error {
    Error::new(Code::PermissionDenied, message)
        .detail("With amp.context_scope = 'transaction' others borrow this session, and nothing may outlive its transaction.")
        .hint(hint)
}

/// Every role may give itself a password and settings, and give up its privileges (DROP OWNED), and all tenants share a service's. In a hardened
/// database the same goes for any other role that its sessions may share: not for one that is bound to a user. Errors: TN004.
fn check_role_change() -> Result<(), Error> {
    if !subject::is_ordinary() {
        return Ok(());
    }
    const DETAIL: &str =
        "All tenants share its login role: a password, a setting or a privilege that is given up would be everybody's.";
    if session::current().service {
        return Err(Error::new(Code::PermissionDenied, "roles cannot be changed in a service's session")
            .detail(DETAIL)
            .hint("Connect as an administrator, who is not in amp_service."));
    }
    // SAFETY: reads a variable of the backend; a catalog look-up by object id.
    let (role, makes_roles) = unsafe {
        let role = pg_sys::GetUserId();
        (role, pg_sys::has_createrole_privilege(role))
    };
    // The bound role itself: another one that its session has taken by SET ROLE may be others', too.
    if makes_roles || !hardening::is_hardened() || role == session::login_role() && identity::is_bound(role)? {
        return Ok(());
    }
    Err(Error::new(Code::PermissionDenied, "roles cannot be changed in this session")
        .detail(format!("In a database with amp.harden() a role is one user's only if it is bound to him. {DETAIL}"))
        .hint("Connect as a role with CREATEROLE; or an operator binds this one to its user: amp.bind_role()."))
}

/// What is prepared is everybody's who logs in with this role.
fn check_prepare() -> Result<(), Error> {
    const HINT: &str = "COMMIT it instead.";
    if subject::is_borrowed() {
        return Err(outlives("a transaction cannot be prepared in this session", HINT));
    }
    if hardening::is_hardened() {
        return Err(Error::new(Code::PermissionDenied, "a transaction cannot be prepared in this database")
            .detail("After amp.harden() nobody may, for whoever logs in with the same role can end it.")
            .hint(HINT));
    }
    Ok(())
}

/// Stronger locks than writing takes make every tenant wait: for the owner's migrations only.
fn check_lock(statement: &pg_sys::LockStmt) -> Result<(), Error> {
    if statement.mode <= pg_sys::RowExclusiveLock as c_int || !subject::is_guarded() {
        return Ok(());
    }
    let in_context = transaction::tenant().is_some() || settings::any() || proof::any();
    // SAFETY: a list of RangeVar, as long as it says, in a transaction; each name is held by a lock until that ends, so that nobody puts
    // another relation behind it.
    unsafe {
        for name in cells(statement.relations) {
            let name = name.ptr_value.cast::<pg_sys::RangeVar>();
            let relation = pg_sys::RangeVarGetRelidExtended(
                name,
                pg_sys::AccessShareLock as _,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            if relation == pg_sys::InvalidOid {
                continue; // PostgreSQL's own error follows
            }
            if let Some(table) = held_up(relation, in_context, &mut Vec::new()) {
                return Err(Error::new(
                    Code::PermissionDenied,
                    format!("\"{}\" cannot be locked in this mode", subject::name(table)),
                )
                .detail("Every other tenant would wait for it.")
                .hint("Lock rows (SELECT ... FOR UPDATE), or IN ROW EXCLUSIVE MODE at most. A table's owner may lock it without a context."));
            }
        }
    }
    Ok(())
}

/// What other tenants would wait for if a relation were locked: itself, its parts, and what a view reads, for all of these are locked with it.
///
/// # Safety
/// A relation that is locked, in a transaction.
unsafe fn held_up(relation: pg_sys::Oid, in_context: bool, seen: &mut Vec<pg_sys::Oid>) -> Option<pg_sys::Oid> {
    if seen.contains(&relation) {
        return None;
    }
    seen.push(relation);
    // SAFETY: by the contract above; a view's query and the list of parts live as long as the statement.
    unsafe {
        if pg_sys::get_rel_relkind(relation) as u8 == pg_sys::RELKIND_VIEW {
            let view = pg_sys::relation_open(relation, pg_sys::NoLock as _);
            let table = held_up_by_view(relation, pg_sys::get_view_query(view), in_context, seen);
            pg_sys::relation_close(view, pg_sys::NoLock as _);
            return table;
        }
        let reached = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(relation, pg_sys::AccessShareLock as _, std::ptr::null_mut())
        });
        cells(reached)
            .map(|part| part.oid_value)
            .find(|part| subject::is_protected(*part) && (in_context || !subject::owns(*part)))
    }
}

/// The same for a view's query, or one within it. What stands in an expression is not looked into: then it is the view.
///
/// # Safety
/// As [`held_up`].
unsafe fn held_up_by_view(
    view: pg_sys::Oid,
    query: *const pg_sys::Query,
    in_context: bool,
    seen: &mut Vec<pg_sys::Oid>,
) -> Option<pg_sys::Oid> {
    use pg_sys::RTEKind::{RTE_RELATION, RTE_SUBQUERY};
    // SAFETY: by the contract above; the lists of a query hold these nodes.
    unsafe {
        if (*query).hasSubLinks {
            return Some(view);
        }
        for entry in cells((*query).rtable) {
            let entry = &*entry.ptr_value.cast::<pg_sys::RangeTblEntry>();
            let table = match entry.rtekind {
                RTE_RELATION => {
                    pg_sys::LockRelationOid(entry.relid, pg_sys::AccessShareLock as _);
                    held_up(entry.relid, in_context, seen)
                }
                RTE_SUBQUERY => held_up_by_view(view, entry.subquery, in_context, seen),
                _ => None,
            };
            if table.is_some() {
                return table;
            }
        }
        cells((*query).cteList).find_map(|entry| {
            let query = (*entry.ptr_value.cast::<pg_sys::CommonTableExpr>()).ctequery;
            held_up_by_view(view, query.cast(), in_context, seen)
        })
    }
}

/// # Safety
/// A live list, or null.
unsafe fn cells<'a>(list: *const pg_sys::List) -> impl Iterator<Item = &'a pg_sys::ListCell> {
    // SAFETY: by the contract above.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    // SAFETY: the list is as long as it says.
    (0..length).map(move |position| unsafe { &*(*list).elements.add(position) })
}

/// In a hardened database a channel is its tenant's: named by its id, or beginning with that and a dot or colon.
fn check_channel(channel: &CStr) -> Result<(), Error> {
    if subject::is_borrowed() {
        return Err(outlives(
            "this session cannot LISTEN",
            "LISTEN in a session of its own, with amp.context_scope = 'session'.",
        ));
    }
    if !hardening::is_hardened() {
        return Ok(());
    }
    let tenant = resolve::tenant()?;
    let own = channel.to_bytes().strip_prefix(tenant.as_str().as_bytes());
    if own.is_some_and(|rest| matches!(rest.first(), None | Some(b'.' | b':'))) {
        return Ok(());
    }
    Err(Error::new(Code::PermissionDenied, format!("channel \"{}\" is not this tenant's", channel.to_string_lossy()))
        .detail("In a database with amp.harden() a session listens to its tenant's channels only.")
        .hint(format!("Name it \"{0}\", or \"{0}:...\".", tenant.as_str())))
}
