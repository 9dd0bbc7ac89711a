//! What the DDL guard (`sql/isolation/ddl_guard.sql`) needs and SQL has not: how the catalogs looked before a statement, which tables and
//! functions a GRANT was about, a superuser's override that ends with its transaction, and REASSIGN OWNED, for which PostgreSQL fires no event
//! trigger.
//!
//! The guard refuses a statement for what it has changed for the worse, so it has to know what was so before. The catalogs still say it:
//! the row versions that a statement replaced are there until its transaction commits, and belong to the commands before it. All that is
//! noted when a statement begins is therefore a command number; a snapshot that ends there shows what it found.

use super::subject;
use crate::backend::Local;
use crate::compat;
use crate::context::{catalog, executor, transaction};
use crate::error::{self, Code, Error, guarded};
use crate::function::raw_function;
use crate::spi::{self, Outcome};
use crate::utility::Call;
use pgrx::IntoDatum;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error has to pass with every field it has.
    fn GetLatestSnapshot() -> pg_sys::Snapshot;
    fn PushCopiedSnapshot(snapshot: pg_sys::Snapshot);
    fn PopActiveSnapshot();
    fn OidFunctionCall1Coll(function: Oid, collation: Oid, argument: Datum) -> Datum;
}

/// A DDL statement that is running.
struct Begun {
    transaction: u64,
    savepoint: pg_sys::SubTransactionId,
    /// What it changes has this command number, or a later one.
    command: pg_sys::CommandId,
    /// It gives something another name or schema, and does nothing else.
    renames: bool,
}

/// The statements that are running, the innermost last: a column's default, or an event trigger, may run others.
static RUNNING: Local<RefCell<Vec<Begun>>> = Local::new(RefCell::new(Vec::new()));

static ALLOW_SETTING: GucSetting<bool> = GucSetting::<bool>::new(false);

/// The transaction that switched the override on; 0 for none.
static ALLOWED_IN: Local<Cell<u64>> = Local::new(Cell::new(0));

pub(super) fn init() {
    // SAFETY: from _PG_init; hooks, callbacks and statics stay loaded with the library.
    unsafe {
        GucRegistry::define_bool_guc_with_hooks(
            c"amp.allow_unsafe_ddl",
            c"Lets schema changes pass that open a hole in protected tables.",
            c"For a superuser, by SET LOCAL: it ends with the transaction. Each such change is in amp.audit_log.",
            &ALLOW_SETTING,
            GucContext::Suset,
            GucFlags::NOT_WHILE_SEC_REST | GucFlags::DISALLOW_IN_FILE | GucFlags::DISALLOW_IN_AUTO_FILE,
            Some(check_allow),
            Some(assign_allow),
            None,
        );
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
    }
}

/// An override that outlived its transaction would be forgotten, and one from elsewhere than SQL would not be seen.
unsafe extern "C-unwind" fn check_allow(
    value: *mut bool,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; this frame owns nothing.
    unsafe {
        guarded(|| {
            if !*value || pg_sys::InitializingParallelWorker {
                return Ok(true); // a worker runs no DDL
            }
            if source != pg_sys::GucSource::PGC_S_SESSION
                || !pg_sys::IsTransactionState()
                || !pg_sys::IsTransactionBlock()
            {
                Error::new(Code::WrongState, "amp.allow_unsafe_ddl can be switched on inside a transaction only")
                    .detail("It counts until that transaction ends. It is refused from configuration files, roles, databases, functions and connection options.")
                    .hint("BEGIN; SET LOCAL amp.allow_unsafe_ddl = on; then the schema change, and COMMIT.")
                    .refuse_setting();
                return Ok(false);
            }
            let noted = compat::setting_memory(size_of::<u64>()).cast::<u64>();
            if noted.is_null() {
                return Ok(false);
            }
            noted.write(transaction::serial());
            *extra = noted.cast();
            Ok(true)
        })
    }
}

unsafe extern "C-unwind" fn assign_allow(_value: bool, extra: *mut c_void) {
    // SAFETY: null, or what `check_allow` wrote.
    ALLOWED_IN.set(unsafe { extra.cast::<u64>().as_ref().copied().unwrap_or(0) });
}

/// A savepoint was rolled back: the statements that began in it failed. Must not fail.
unsafe extern "C-unwind" fn at_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        RUNNING.borrow_mut().retain(|begun| begun.savepoint < own);
    }
}

raw_function! {
    /// `amp.unsafe_ddl_allowed() → boolean`
    amp_unsafe_ddl_allowed, pg_finfo_amp_unsafe_ddl_allowed, |_fcinfo| {
        Datum::from(ALLOW_SETTING.get() && ALLOWED_IN.get() == transaction::serial())
    }
}

raw_function! {
    /// `amp.note_ddl() → event_trigger`: a DDL statement begins, or has ended.
    amp_note_ddl, pg_finfo_amp_note_ddl, |fcinfo| {
        // SAFETY: this frame owns nothing; the context of an event trigger's call says so itself.
        unsafe {
            let key = guarded(|| note((*fcinfo).context.cast()));
            if let Some(key) = key {
                let nothing = guarded(|| Ok(Vec::<Oid>::new().into_datum().unwrap_or(Datum::null())));
                let relation = guarded(|| Ok(vec![key.relation].into_datum().unwrap_or(Datum::null())));
                let tenant = look(None, TENANT_COLUMN.as_ptr(), [relation, nothing]);
                guarded(|| check_key(key, tenant));
            }
        }
        Datum::null()
    }
}

/// In a transaction.
fn begin(running: &mut Vec<Begun>, renames: bool) {
    let transaction = transaction::serial();
    // What an earlier transaction left here has failed with it.
    running.retain(|begun| begun.transaction == transaction);
    // SAFETY: these read variables of the backend.
    let (savepoint, command) = unsafe { (pg_sys::GetCurrentSubTransactionId(), pg_sys::GetCurrentCommandId(false)) };
    running.push(Begun { transaction, savepoint, command, renames });
}

/// REASSIGN OWNED is looked at as every other statement, from here.
///
/// # Safety
/// As a handler of [`crate::utility`].
pub(crate) unsafe fn utility(call: Call) {
    // SAFETY: by the contract above the statement lives; this frame owns nothing, so an error may jump over it: then the statement is no longer
    // among those that are running when its transaction or savepoint has ended.
    unsafe {
        let statement = (*call.statement).utilityStmt;
        if (*statement).type_ != pg_sys::NodeTag::T_ReassignOwnedStmt || !executor::installed() {
            return call.proceed();
        }
        error::guarded(|| {
            begin(&mut RUNNING.borrow_mut(), false);
            Ok(())
        });
        call.proceed();
        let check = error::guarded(|| {
            // What it did is to be seen.
            pg_sys::CommandCounterIncrement();
            let owners = owners(&*statement.cast::<pg_sys::ReassignOwnedStmt>());
            Ok(check_of_reassignments()?.map(|function| (function, owners.into_datum().unwrap_or(Datum::null()))))
        });
        if let Some((function, owners)) = check {
            // Not by SQL, in which whoever runs the statement would need the privilege to call it.
            OidFunctionCall1Coll(function, pg_sys::InvalidOid, owners);
        }
        RUNNING.borrow_mut().pop();
    }
}

/// Those whose objects were given away.
///
/// # Safety
/// A live statement that has run: the roles are there.
unsafe fn owners(statement: &pg_sys::ReassignOwnedStmt) -> Vec<Oid> {
    // SAFETY: by the contract above; a list of RoleSpec, as long as it says.
    unsafe {
        let roles = &*statement.roles;
        (0..roles.length as usize)
            .map(|position| pg_sys::get_rolespec_oid((*roles.elements.add(position)).ptr_value.cast(), true))
            .collect()
    }
}

/// `amp.refuse_unsafe_reassignment(oid[])`; none in a database whose extension is older than it.
fn check_of_reassignments() -> Result<Option<Oid>, Error> {
    let schema = catalog::schema()?;
    // SAFETY: a syscache look-up with the key types that the cache declares.
    let function = unsafe {
        let arguments = [pg_sys::OIDARRAYOID];
        let arguments = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as _);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as _,
            pg_sys::Anum_pg_proc_oid as _,
            Datum::from(c"refuse_unsafe_reassignment".as_ptr()),
            Datum::from(arguments),
            schema.into(),
            Datum::null(),
        )
    };
    Ok((function != pg_sys::InvalidOid).then_some(function))
}

/// A unique index that is about to be made in several transactions: at the end of the last one it would be too late to refuse it.
#[derive(Clone, Copy)]
struct ConcurrentKey {
    relation: Oid,
    statement: *const pg_sys::IndexStmt,
}

const TENANT_COLUMN: &CStr =
    c"SELECT (SELECT p.tenant_column::pg_catalog.text FROM amp.protected_tables p WHERE p.relation = ANY ($1 || $2))";

/// # Safety
/// The context of a function's call.
unsafe fn note(call: *const pg_sys::EventTriggerData) -> Result<Option<ConcurrentKey>, Error> {
    // SAFETY: by the contract above; the tag says what it is.
    unsafe {
        if call.is_null() || (*call).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return Err(Error::new(Code::NotSupported, "amp.note_ddl() is an event trigger's function")
                .hint("The extension calls it."));
        }
        let statement = (*call).parsetree;
        let mut running = RUNNING.borrow_mut();
        if CStr::from_ptr((*call).event) != c"ddl_command_start" {
            running.pop();
            return Ok(None);
        }
        let renames =
            matches!((*statement).type_, pg_sys::NodeTag::T_RenameStmt | pg_sys::NodeTag::T_AlterObjectSchemaStmt);
        begin(&mut running, renames);
        if (*statement).type_ != pg_sys::NodeTag::T_IndexStmt {
            return Ok(None);
        }
        let statement = statement.cast::<pg_sys::IndexStmt>();
        if !((*statement).concurrent && (*statement).unique) {
            return Ok(None);
        }
        let relation = pg_sys::RangeVarGetRelidExtended(
            (*statement).relation,
            pg_sys::NoLock as _,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        Ok((relation != pg_sys::InvalidOid).then_some(ConcurrentKey { relation, statement }))
    }
}

/// Errors: TN008.
///
/// # Safety
/// A live statement; the datum is a text.
unsafe fn check_key(key: ConcurrentKey, tenant: Option<Datum>) -> Result<(), Error> {
    let Some(tenant) = tenant else {
        return Ok(()); // not protected
    };
    // SAFETY: by the contract above; the list of columns is as long as it says.
    unsafe {
        let tenant = CStr::from_ptr(pg_sys::text_to_cstring(tenant.cast_mut_ptr()));
        let columns = &*(*key.statement).indexParams;
        let has_tenant = (0..columns.length as usize).any(|position| {
            let column = &*(*columns.elements.add(position)).ptr_value.cast::<pg_sys::IndexElem>();
            !column.name.is_null() && CStr::from_ptr(column.name) == tenant && tells_apart(column)
        });
        if has_tenant {
            return Ok(());
        }
        let table = subject::name(key.relation);
        Err(Error::new(
            Code::UnsafeSchemaChange,
            format!("CREATE INDEX would leave a hole: a unique index on {table} (key-without-tenant)"),
        )
        .detail("Unique without the tenant: tells whether another tenant has a value.")
        .hint(format!("Put {} in front of its columns.", tenant.to_string_lossy())))
    }
}

/// Whether a column of an index tells any two of its values apart, as `amp.tells_apart()` says of one that is there.
///
/// # Safety
/// A live column of an index that is about to be made.
unsafe fn tells_apart(column: &pg_sys::IndexElem) -> bool {
    // SAFETY: by the contract above; names that are not there are PostgreSQL's own error later.
    unsafe {
        let is_deterministic = column.collation.is_null() || {
            let collation = pg_sys::get_collation_oid(column.collation, true);
            collation == pg_sys::InvalidOid || pg_sys::get_collation_isdeterministic(collation)
        };
        is_deterministic
            // A unique index is a B-tree.
            && (column.opclass.is_null()
                || pg_sys::get_opclass_oid(pg_sys::BTREE_AM_OID, column.opclass, true).to_u32()
                    < pg_sys::FirstNormalObjectId)
    }
}

raw_function! {
    /// `amp.ddl_renames() → boolean`: whether the running statement gives something another name or schema.
    amp_ddl_renames, pg_finfo_amp_ddl_renames, |_fcinfo| {
        Datum::from(RUNNING.borrow().last().is_some_and(|begun| begun.renames))
    }
}

/// The number of the first command of a transaction.
const FIRST_COMMAND: pg_sys::CommandId = 0;

/// Where the running statement began. One that commits in between, such as DETACH PARTITION CONCURRENTLY, is looked at from its last
/// transaction on.
fn beginning() -> pg_sys::CommandId {
    let running = RUNNING.borrow();
    running
        .last()
        .filter(|begun| begun.transaction == transaction::serial())
        .map_or(FIRST_COMMAND, |begun| begun.command)
}

raw_function! {
    /// `amp.catalogs_at(moment text, query text, relations oid[], functions oid[]) → text`: one text from the catalogs as they are now, as they
    /// were before the running `statement`, or before the `transaction`. Whatever its isolation level: a transaction that began before a table was
    /// protected must not take it for unprotected.
    amp_catalogs_at, pg_finfo_amp_catalogs_at, |fcinfo| {
        // SAFETY: this frame owns nothing, so an error of the query may jump over it; the function is STRICT with these arguments.
        unsafe {
            let arguments = (*fcinfo).args.as_slice(4);
            let (moment, query) = (arguments[0].value, arguments[1].value);
            let (until, query) = guarded(|| {
                let until = match CStr::from_ptr(pg_sys::text_to_cstring(moment.cast_mut_ptr())).to_bytes() {
                    b"now" => None,
                    b"statement" => Some(beginning()),
                    _ => Some(FIRST_COMMAND),
                };
                Ok((until, pg_sys::text_to_cstring(query.cast_mut_ptr())))
            });
            let text = look(until, query, [arguments[2].value, arguments[3].value]);
            (*fcinfo).isnull = text.is_none();
            text.unwrap_or(Datum::null())
        }
    }
}

/// # Safety
/// In a transaction, from frames that own nothing; `query` takes two arrays of object ids and selects one text.
unsafe fn look(until: Option<pg_sys::CommandId>, query: *const c_char, arguments: [Datum; 2]) -> Option<Datum> {
    // SAFETY: by the contract above; the pushed snapshot is a copy of our own, which nothing else knows.
    unsafe {
        PushCopiedSnapshot(GetLatestSnapshot());
        if let Some(until) = until {
            guarded(|| {
                (*pg_sys::GetActiveSnapshot()).curcid = until;
                Ok(())
            });
        }
        let outcome = spi::execute(query, [pg_sys::OIDARRAYOID; 2], arguments, true);
        PopActiveSnapshot();
        guarded(|| match outcome {
            Outcome::Selected(text) => Ok(text),
            Outcome::Rows(rows) => Err(Error::new(Code::WrongState, format!("the catalogs gave {rows} rows"))
                .hint("Report this: it cannot happen.")),
        })
    }
}

raw_function! {
    /// `amp.granted_relations(command pg_ddl_command) → oid[]`: the tables that a GRANT was about, which
    /// `pg_event_trigger_ddl_commands()` does not name.
    amp_granted_relations, pg_finfo_amp_granted_relations, |fcinfo| {
        // SAFETY: this frame owns nothing; the function is STRICT, and PostgreSQL alone makes values of this type.
        unsafe {
            let command = (*fcinfo).args.as_slice(1)[0].value;
            guarded(|| {
                let of = |kind| kind == pg_sys::ObjectType::OBJECT_TABLE;
                Ok(granted(&*command.cast_mut_ptr(), of).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

raw_function! {
    /// `amp.granted_functions(command pg_ddl_command) → oid[]`: the functions and procedures that a GRANT was about.
    amp_granted_functions, pg_finfo_amp_granted_functions, |fcinfo| {
        // SAFETY: as above.
        unsafe {
            let command = (*fcinfo).args.as_slice(1)[0].value;
            guarded(|| {
                use pg_sys::ObjectType::{OBJECT_FUNCTION, OBJECT_PROCEDURE, OBJECT_ROUTINE};
                let of = |kind| matches!(kind, OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE);
                Ok(granted(&*command.cast_mut_ptr(), of).into_datum().unwrap_or(Datum::null()))
            })
        }
    }
}

/// # Safety
/// A command that PostgreSQL collected.
unsafe fn granted(command: &pg_sys::CollectedCommand, of: impl FnOnce(pg_sys::ObjectType::Type) -> bool) -> Vec<Oid> {
    // SAFETY: the type says which part of the union is meant; the list is as long as it says.
    unsafe {
        if command.type_ != pg_sys::CollectedCommandType::SCT_Grant {
            return Vec::new();
        }
        let grant = &*command.d.grant.istmt;
        if !grant.is_grant || !of(grant.objtype) || grant.objects.is_null() {
            return Vec::new();
        }
        let objects = &*grant.objects;
        (0..objects.length as usize).map(|position| (*objects.elements.add(position)).oid_value).collect()
    }
}
