//! The policies come before what a statement asks.
//!
//! PostgreSQL evaluates a cheap "leakproof" condition of the statement before the policies, and takes a condition for leakproof
//! as soon as no leaky function *in it* is given a column: `CASE WHEN iban = 'DE99' THEN (SELECT 1/0) ...` raises its error for
//! rows that the policy would have hidden, and so tells that they exist. Three things are done about that, where a query has row security:
//!
//! - Once the access paths of a table are known (indexes may use such conditions as before), its conditions are no longer taken for
//!   leakproof: every filter then asks the policies first.
//! - `a = b` of such conditions goes into an equivalence class, and what PostgreSQL derives from that has the security level of the class's
//!   best member: with `b = tenant_id`, the policy's own. So an equation that computes something from columns which can fail, or do
//!   something, is none before that is decided: it becomes `(a = b) IS TRUE`, which says the same of a condition.
//! - Of two indexes that a bitmap scan combines, the second is asked only if the first has found something, hidden rows included, and only
//!   then is its key computed. Where a key can fail, indexes are not combined.

use super::executor;
use crate::backend::Local;
use pgrx::pg_sys::{self, NodeTag};
use std::cell::Cell;

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the planner has to pass with every field it has.
    fn contain_leaked_vars(clause: *mut pg_sys::Node) -> bool;
    fn contain_var_clause(node: *mut pg_sys::Node) -> bool;
    fn get_func_leakproof(function: pg_sys::Oid) -> bool;
    fn get_opcode(operator: pg_sys::Oid) -> pg_sys::Oid;
    fn check_stack_depth();
    fn palloc0(size: usize) -> *mut std::ffi::c_void;
    fn list_delete_ptr(list: *mut pg_sys::List, datum: *mut std::ffi::c_void) -> *mut pg_sys::List;
    fn add_path(table: *mut pg_sys::RelOptInfo, path: *mut pg_sys::Path);
    fn create_seqscan_path(
        root: *mut pg_sys::PlannerInfo,
        table: *mut pg_sys::RelOptInfo,
        outer: pg_sys::Relids,
        workers: std::ffi::c_int,
    ) -> *mut pg_sys::Path;
    fn create_bitmap_heap_path(
        root: *mut pg_sys::PlannerInfo,
        table: *mut pg_sys::RelOptInfo,
        bitmap: *mut pg_sys::Path,
        outer: pg_sys::Relids,
        loops: f64,
        workers: std::ffi::c_int,
    ) -> *mut pg_sys::BitmapHeapPath;
}

static NEXT_RELATION: Local<Cell<pg_sys::get_relation_info_hook_type>> = Local::new(Cell::new(None));
static NEXT_PATHS: Local<Cell<pg_sys::set_rel_pathlist_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT_RELATION.set(pg_sys::get_relation_info_hook);
        pg_sys::get_relation_info_hook = Some(on_relation);
        NEXT_PATHS.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(on_paths);
    }
}

/// A table is looked up for planning. The tables of the query's FROM are before its conditions are taken apart, and after they were simplified
/// and functions in them inlined: they are here as PostgreSQL will judge them.
unsafe extern "C-unwind" fn on_relation(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    inherits: bool,
    table: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: the planner's live nodes; this frame owns nothing, so an error may jump over it.
    unsafe {
        if let Some(next) = NEXT_RELATION.get() {
            next(root, relation, inherits, table);
        }
        if (*table).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL
            && !(*entry(root, (*table).relid)).securityQuals.is_null()
            && executor::installed()
        {
            set_apart((*(*root).parse).jointree.cast());
            for index in 1..(*root).simple_rel_array_size as pg_sys::Index {
                let entry = entry(root, index);
                if !entry.is_null() {
                    // The views that a statement writes through may have conditions there, too.
                    for conditions in cells((*entry).securityQuals) {
                        set_apart_conditions(*conditions);
                    }
                }
            }
        }
    }
}

/// # Safety
/// A live query that is being planned, and the number of a table in it.
unsafe fn entry(root: *mut pg_sys::PlannerInfo, index: pg_sys::Index) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: by the contract above.
    unsafe { *(*root).simple_rte_array.add(index as usize) }
}

/// The pointers in a list.
///
/// # Safety
/// A live list of nodes, or null, that does not grow meanwhile.
unsafe fn cells(list: *mut pg_sys::List) -> impl Iterator<Item = *mut *mut pg_sys::Node> {
    // SAFETY: by the contract above; it is as long as it says.
    unsafe {
        let length = list.as_ref().map_or(0, |list| list.length as usize);
        (0..length).map(move |position| (&raw mut (*(*list).elements.add(position)).ptr_value).cast())
    }
}

/// # Safety
/// A live node of a jointree, or null, of a query that is being planned; in a frame that owns nothing.
unsafe fn set_apart(node: *mut pg_sys::Node) {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        check_stack_depth();
        match node.as_ref().map(|node| node.type_) {
            Some(NodeTag::T_FromExpr) => {
                let from = node.cast::<pg_sys::FromExpr>();
                cells((*from).fromlist).for_each(|item| set_apart(*item));
                set_apart_conditions((*from).quals);
            }
            Some(NodeTag::T_JoinExpr) => {
                let join = node.cast::<pg_sys::JoinExpr>();
                set_apart((*join).larg);
                set_apart((*join).rarg);
                // A full join has to be one of equations. It is an equivalence only through COALESCE of both sides, which never counts as leakproof.
                if (*join).jointype != pg_sys::JoinType::JOIN_FULL {
                    set_apart_conditions((*join).quals);
                }
            }
            _ => {}
        }
    }
}

/// Keeps equations that must not be derived from out of equivalence classes.
///
/// # Safety
/// Null, or conditions as the planner has them then: a list.
unsafe fn set_apart_conditions(conditions: *mut pg_sys::Node) {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        if conditions.as_ref().is_none_or(|node| node.type_ != NodeTag::T_List) {
            return;
        }
        for condition in cells(conditions.cast()) {
            if (**condition).type_ != NodeTag::T_OpExpr || contain_leaked_vars(*condition) {
                continue;
            }
            let operands = (*(*condition).cast::<pg_sys::OpExpr>()).args;
            if cells(operands).any(|operand| contain_var_clause(*operand) && !is_harmless(*operand)) {
                let test = palloc0(size_of::<pg_sys::BooleanTest>()).cast::<pg_sys::BooleanTest>();
                (*test).xpr.type_ = NodeTag::T_BooleanTest;
                (*test).arg = (*condition).cast();
                (*test).booltesttype = pg_sys::BoolTestType::IS_TRUE;
                (*test).location = -1;
                *condition = test.cast();
            }
        }
    }
}

/// Whether an expression that leaks none of its columns can neither fail nor do anything else than give a value. What is not known here can.
///
/// # Safety
/// A live expression of which `contain_leaked_vars` is false, or null; in a frame that owns nothing.
unsafe fn is_harmless(node: *mut pg_sys::Node) -> bool {
    use NodeTag::*;
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        let Some(tag) = node.as_ref().map(|node| node.type_) else {
            return true;
        };
        check_stack_depth();
        let all = |list| cells(list).all(|node| is_harmless(*node));
        match tag {
            T_Var | T_Const | T_CaseTestExpr | T_SQLValueFunction => true,
            // Others are computed when they are first asked for.
            T_Param => (*node.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN,
            T_RelabelType => is_harmless((*node.cast::<pg_sys::RelabelType>()).arg.cast()),
            T_CollateExpr => is_harmless((*node.cast::<pg_sys::CollateExpr>()).arg.cast()),
            T_FieldSelect => is_harmless((*node.cast::<pg_sys::FieldSelect>()).arg.cast()),
            T_NullTest => is_harmless((*node.cast::<pg_sys::NullTest>()).arg.cast()),
            T_BooleanTest => is_harmless((*node.cast::<pg_sys::BooleanTest>()).arg.cast()),
            T_List => all(node.cast()),
            T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args),
            T_ArrayExpr => all((*node.cast::<pg_sys::ArrayExpr>()).elements),
            T_RowExpr => all((*node.cast::<pg_sys::RowExpr>()).args),
            T_CaseExpr => {
                let case = &*node.cast::<pg_sys::CaseExpr>();
                is_harmless(case.arg.cast()) && all(case.args) && is_harmless(case.defresult.cast())
            }
            T_CaseWhen => {
                let when = &*node.cast::<pg_sys::CaseWhen>();
                is_harmless(when.expr.cast()) && is_harmless(when.result.cast())
            }
            T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                get_func_leakproof(call.funcid) && all(call.args)
            }
            T_OpExpr | T_DistinctExpr | T_NullIfExpr => {
                let call = &*node.cast::<pg_sys::OpExpr>();
                get_func_leakproof(get_opcode(call.opno)) && all(call.args)
            }
            T_ScalarArrayOpExpr => {
                let call = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                get_func_leakproof(get_opcode(call.opno)) && all(call.args)
            }
            _ => false,
        }
    }
}

/// The access paths of a table are known.
unsafe extern "C-unwind" fn on_paths(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    index: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner's live nodes; this frame owns nothing, so an error may jump over it.
    unsafe {
        if let Some(next) = NEXT_PATHS.get() {
            next(root, table, index, entry);
        }
        if (*(*root).parse).hasRowSecurity && executor::installed() {
            distrust((*table).baserestrictinfo);
            distrust((*table).joininfo);
            part_indexes(root, table);
        }
    }
}

/// Takes back, for conditions that stand behind a policy, that they are leakproof.
///
/// # Safety
/// A list of RestrictInfo, or null.
unsafe fn distrust(conditions: *mut pg_sys::List) {
    // SAFETY: by the contract above.
    unsafe {
        for condition in cells(conditions) {
            let condition = (*condition).cast::<pg_sys::RestrictInfo>();
            if (*condition).security_level > 0 {
                (*condition).leakproof = false;
            }
        }
    }
}

/// Puts, for bitmap scans that compute the key of an index after they have asked another one, those of one index in their place.
///
/// # Safety
/// A table whose paths are known, in a frame that owns nothing.
unsafe fn part_indexes(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) {
    // SAFETY: by the contract above; the tag says which node it is, and what is taken out of a list has been read from it.
    unsafe {
        while let Some(path) = hasty((*table).partial_pathlist) {
            (*table).partial_pathlist = list_delete_ptr((*table).partial_pathlist, path.cast());
        }
        while let Some(path) = hasty((*table).pathlist) {
            (*table).pathlist = list_delete_ptr((*table).pathlist, path.cast());
            let outer = (*path).path.param_info.as_ref().map_or((*table).lateral_relids, |info| info.ppi_req_outer);
            if (*path).path.param_info.is_null() {
                add_path(table, create_seqscan_path(root, table, outer, 0));
            }
            if (*(*path).bitmapqual).type_ == NodeTag::T_BitmapAndPath {
                for part in cells((*(*path).bitmapqual.cast::<pg_sys::BitmapAndPath>()).bitmapquals) {
                    if (**part).type_ == NodeTag::T_IndexPath {
                        let part = create_bitmap_heap_path(root, table, (*part).cast(), outer, 1.0, 0);
                        add_path(table, part.cast());
                    }
                }
            }
        }
    }
}

/// # Safety
/// A list of paths of a table, or null; in a frame that owns nothing.
unsafe fn hasty(paths: *mut pg_sys::List) -> Option<*mut pg_sys::BitmapHeapPath> {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        let scan = cells(paths).find(|path| {
            (***path).type_ == NodeTag::T_BitmapHeapPath
                && is_hasty((*(**path).cast::<pg_sys::BitmapHeapPath>()).bitmapqual.cast())
        });
        scan.map(|path| (*path).cast())
    }
}

/// Whether it combines an index that is not led by the tenant with one whose key can fail.
///
/// # Safety
/// A path below that of a bitmap scan; in a frame that owns nothing.
unsafe fn is_hasty(path: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*path).type_ {
            NodeTag::T_BitmapOrPath => {
                cells((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals).any(|part| is_hasty(*part))
            }
            NodeTag::T_BitmapAndPath => {
                let parts = (*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals;
                cells(parts).any(|part| !some_condition(*part, is_policy))
                    && cells(parts).any(|part| some_condition(*part, can_fail))
            }
            _ => false,
        }
    }
}

/// # Safety
/// As [`is_hasty`].
unsafe fn some_condition(path: *mut pg_sys::Node, is: unsafe fn(&pg_sys::RestrictInfo) -> bool) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*path).type_ {
            NodeTag::T_BitmapAndPath => {
                cells((*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals).any(|part| some_condition(*part, is))
            }
            NodeTag::T_BitmapOrPath => {
                cells((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals).any(|part| some_condition(*part, is))
            }
            NodeTag::T_IndexPath => cells((*path.cast::<pg_sys::IndexPath>()).indexclauses).any(|clause| {
                let conditions = (*(*clause).cast::<pg_sys::IndexClause>()).indexquals;
                cells(conditions).any(|condition| is(&*(*condition).cast::<pg_sys::RestrictInfo>()))
            }),
            _ => false,
        }
    }
}

/// Whether a condition is a policy's, which stand before all others.
///
/// # Safety
/// A live condition.
unsafe fn is_policy(condition: &pg_sys::RestrictInfo) -> bool {
    condition.security_level == 0
}

/// # Safety
/// A live condition, in a frame that owns nothing.
unsafe fn can_fail(condition: &pg_sys::RestrictInfo) -> bool {
    // SAFETY: by the contract above.
    unsafe { !is_harmless(condition.clause.cast()) }
}
