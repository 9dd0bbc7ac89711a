//! `a = b` goes into an equivalence class, and what PostgreSQL derives from that has the security level of the class's best member: with
//! `b = tenant_id`, the policy's own. It may even stand for the policy: of `tenant_id = amp.tenant_id()` and `tenant_id = current_setting('x')`
//! one is asked of each row, and their equality once, before `x` changes. Outer joins derive from leaky conditions, too. So into a class with a
//! policy get columns and what cannot change alone, into others nothing that can fail or do something: such an equation becomes
//! `(a = b) IS TRUE`, which says the same of a condition, before PostgreSQL takes it for one.

use super::harmless::is_harmless;
use super::{cells, length};
use crate::backend::Local;
use crate::context::executor;
use pgrx::pg_sys::{self, NodeTag};
use std::cell::Cell;
use std::ffi::c_int;

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the planner has to pass with every field it has.
    fn contain_leaked_vars(clause: *mut pg_sys::Node) -> bool;
    fn contain_var_clause(node: *mut pg_sys::Node) -> bool;
    fn get_func_leakproof(function: pg_sys::Oid) -> bool;
    fn op_mergejoinable(operator: pg_sys::Oid, of: pg_sys::Oid) -> bool;
    fn exprType(expression: *const pg_sys::Node) -> pg_sys::Oid;
    fn equal(one: *const std::ffi::c_void, other: *const std::ffi::c_void) -> bool;
    fn check_stack_depth();
    fn lappend(list: *mut pg_sys::List, datum: *mut std::ffi::c_void) -> *mut pg_sys::List;
    fn palloc0(size: usize) -> *mut std::ffi::c_void;
    fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
    fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
}

static NEXT: Local<Cell<pg_sys::get_relation_info_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::get_relation_info_hook);
        pg_sys::get_relation_info_hook = Some(on_relation);
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
        if let Some(next) = NEXT.get() {
            next(root, relation, inherits, table);
        }
        if (*table).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL
            && (*(*root).parse).hasRowSecurity
            && executor::installed()
        {
            let mut connected = policies(root);
            let trusted = have_one_owner(root, connected);
            loop {
                let before = length(connected);
                each_equation(root, trusted, |equation, _| connected = connect(root, *equation, connected));
                if length(connected) == before {
                    break;
                }
            }
            each_equation(root, trusted, |equation, of| {
                let may_be_derived_from = match of {
                    // It has to be one of equations. It is an equivalence only through COALESCE of both sides, which is none of its own.
                    Of::FullJoin => true,
                    Of::Statement => may_be_derived_from(root, *equation, connected) || contain_leaked_vars(*equation),
                    Of::Join => {
                        may_be_derived_from(root, *equation, connected)
                            || !is_connected(*equation, connected) && contain_leaked_vars(*equation)
                    }
                    Of::First => {
                        sides(*equation).into_iter().flatten().all(|side| is_column(root, side) || is_fixed(side))
                    }
                };
                if !may_be_derived_from && is_equation(*equation) {
                    set_apart(equation);
                }
            });
        }
    }
}

/// # Safety
/// A live query that is being planned, and the number of a table in it.
unsafe fn entry(root: *mut pg_sys::PlannerInfo, index: pg_sys::Index) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: by the contract above.
    unsafe { *(*root).simple_rte_array.add(index as usize) }
}

/// What the policies compare, and every other condition that stands before the statement's own.
///
/// # Safety
/// A live query that is being planned, in a frame that owns nothing; so for those below.
pub(super) unsafe fn policies(root: *mut pg_sys::PlannerInfo) -> *mut pg_sys::List {
    let mut operands = std::ptr::null_mut();
    // SAFETY: by the contract above.
    unsafe {
        for index in 1..(*root).simple_rel_array_size as pg_sys::Index {
            let entry = entry(root, index);
            if entry.is_null() {
                continue;
            }
            for (position, conditions) in cells((*entry).securityQuals).enumerate() {
                each_equation_of(*conditions, Of::Statement, &mut |condition, _| {
                    for side in sides(*condition).into_iter().flatten() {
                        // Behind the first there are conditions of views that a statement writes through: of these what they may be equal to.
                        if position == 0 || is_column(root, side) || is_fixed(side) {
                            operands = lappend(operands, side.cast());
                        }
                    }
                });
            }
        }
    }
    operands
}

/// Whether one of them is amp's: what it compares with a column is a leakproof function.
///
/// # Safety
/// As above, of what the policies compare.
unsafe fn is_amps(operands: *mut pg_sys::List) -> bool {
    // SAFETY: by the contract above.
    unsafe { cells(operands).any(|operand| (**operand).type_ == NodeTag::T_FuncExpr && is_fixed(*operand)) }
}

/// Whether what stands before the statement's conditions is to be trusted: policies of one owner, on his own tables. Amp's are trusted by what they
/// compare; beside them, and beside another owner's tables, nobody else's have their rank. Where a table has no row security it is a condition of a
/// view that the client writes through.
///
/// # Safety
/// As above, and of what the policies compare.
unsafe fn have_one_owner(root: *mut pg_sys::PlannerInfo, operands: *mut pg_sys::List) -> bool {
    // SAFETY: catalog look-ups by object id; the tuples of this cache are rows of pg_class.
    unsafe {
        let mut first = pg_sys::InvalidOid;
        for index in 1..(*root).simple_rel_array_size as pg_sys::Index {
            let entry = entry(root, index);
            if entry.is_null() || (*entry).securityQuals.is_null() {
                continue;
            }
            let tuple = SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, (*entry).relid.into());
            if tuple.is_null() {
                return false;
            }
            let row = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple);
            let (owner, secured) = (row.relowner, row.relrowsecurity);
            ReleaseSysCache(tuple);
            if !secured || first != pg_sys::InvalidOid && owner != first {
                return false;
            }
            first = owner;
        }
        !is_amps(operands)
    }
}

/// Where an equation stands.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// In WHERE, or behind a table's policies.
    Statement,
    /// In the ON of a join, an outer one perhaps: PostgreSQL derives from leaky conditions there.
    Join,
    /// In the ON of a full join.
    FullJoin,
    /// Before all others, as policies are; but it may be a client's: of a view that he writes through, or a policy of his own table.
    First,
}

/// Calls `body` with each condition of two sides in the query's WHERE and ON, and of what stands before them if that is not `trusted`.
///
/// # Safety
/// As above.
unsafe fn each_equation(
    root: *mut pg_sys::PlannerInfo,
    trusted: bool,
    mut body: impl FnMut(*mut *mut pg_sys::Node, Of),
) {
    // SAFETY: by the contract above.
    unsafe {
        each_equation_below((*(*root).parse).jointree.cast(), &mut body);
        for index in 1..(*root).simple_rel_array_size as pg_sys::Index {
            let entry = entry(root, index);
            if entry.is_null() || (*entry).securityQuals.is_null() {
                continue;
            }
            for (position, conditions) in cells((*entry).securityQuals).enumerate() {
                if position > 0 {
                    each_equation_of(*conditions, Of::Statement, &mut body);
                } else if !trusted {
                    each_equation_of(*conditions, Of::First, &mut body);
                }
            }
        }
    }
}

/// # Safety
/// As above, of a node of the jointree, or null.
unsafe fn each_equation_below(node: *mut pg_sys::Node, body: &mut impl FnMut(*mut *mut pg_sys::Node, Of)) {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        check_stack_depth();
        match node.as_ref().map(|node| node.type_) {
            Some(NodeTag::T_FromExpr) => {
                let from = node.cast::<pg_sys::FromExpr>();
                cells((*from).fromlist).for_each(|item| each_equation_below(*item, body));
                each_equation_of((*from).quals, Of::Statement, body);
            }
            Some(NodeTag::T_JoinExpr) => {
                let join = node.cast::<pg_sys::JoinExpr>();
                each_equation_below((*join).larg, body);
                each_equation_below((*join).rarg, body);
                let of = if (*join).jointype == pg_sys::JoinType::JOIN_FULL { Of::FullJoin } else { Of::Join };
                each_equation_of((*join).quals, of, body);
            }
            _ => {}
        }
    }
}

/// # Safety
/// As above, of conditions as the planner has them then: a list, or null.
unsafe fn each_equation_of(conditions: *mut pg_sys::Node, of: Of, body: &mut impl FnMut(*mut *mut pg_sys::Node, Of)) {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        if conditions.as_ref().is_some_and(|node| node.type_ == NodeTag::T_List) {
            cells(conditions.cast())
                .filter(|condition| sides(**condition).is_some())
                .for_each(|condition| body(condition, of));
        }
    }
}

/// The two sides of a condition that may be an equation.
///
/// # Safety
/// As above, of a live condition.
pub(super) unsafe fn sides(condition: *mut pg_sys::Node) -> Option<[*mut pg_sys::Node; 2]> {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        if (*condition).type_ != NodeTag::T_OpExpr {
            return None;
        }
        let call = &*condition.cast::<pg_sys::OpExpr>();
        (length(call.args) == 2).then(|| [0, 1].map(|side| bare((*(*call.args).elements.add(side)).ptr_value.cast())))
    }
}

/// Whether PostgreSQL takes a condition that has two sides for an equation. Not asked before it matters: it looks into the catalogs.
///
/// # Safety
/// As above, of a live condition that has two sides.
pub(super) unsafe fn is_equation(condition: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        let call = &*condition.cast::<pg_sys::OpExpr>();
        op_mergejoinable(call.opno, exprType((*(*call.args).elements).ptr_value.cast()))
    }
}

/// An expression without what only says which type or collation it has.
///
/// # Safety
/// As above, of a live expression.
unsafe fn bare(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        loop {
            node = match (*node).type_ {
                NodeTag::T_RelabelType => (*node.cast::<pg_sys::RelabelType>()).arg.cast(),
                NodeTag::T_CollateExpr => (*node.cast::<pg_sys::CollateExpr>()).arg.cast(),
                _ => return node,
            }
        }
    }
}

/// # Safety
/// As above, of a list of expressions and another one.
pub(super) unsafe fn is_among(list: *mut pg_sys::List, node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        cells(list).any(|known| {
            if (**known).type_ == NodeTag::T_Var && (*node).type_ == NodeTag::T_Var {
                // Also where an outer join makes it null.
                let (one, other) = (&*(*known).cast::<pg_sys::Var>(), &*node.cast::<pg_sys::Var>());
                (one.varno, one.varattno, one.varlevelsup) == (other.varno, other.varattno, other.varlevelsup)
            } else {
                equal((*known).cast(), node.cast())
            }
        })
    }
}

/// Adds what an equation connects with the policies, unless it will be set apart.
///
/// # Safety
/// As above, of an equation.
unsafe fn connect(
    root: *mut pg_sys::PlannerInfo,
    condition: *mut pg_sys::Node,
    mut connected: *mut pg_sys::List,
) -> *mut pg_sys::List {
    // SAFETY: by the contract above.
    unsafe {
        if let Some([left, right]) = sides(condition) {
            for (one, other) in [(left, right), (right, left)] {
                if is_among(connected, one)
                    && !is_among(connected, other)
                    && (is_column(root, other) || is_fixed(other))
                {
                    connected = lappend(connected, other.cast());
                }
            }
        }
        connected
    }
}

/// # Safety
/// As above, of an equation.
unsafe fn is_connected(condition: *mut pg_sys::Node, connected: *mut pg_sys::List) -> bool {
    // SAFETY: by the contract above.
    unsafe { sides(condition).into_iter().flatten().any(|side| is_among(connected, side)) }
}

/// Whether nothing that PostgreSQL derives from an equation can fail, do something, or stand for a policy and say something else later.
///
/// # Safety
/// As above, of an equation.
unsafe fn may_be_derived_from(
    root: *mut pg_sys::PlannerInfo,
    condition: *mut pg_sys::Node,
    connected: *mut pg_sys::List,
) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        let Some(sides) = sides(condition) else {
            return true;
        };
        if is_connected(condition, connected) {
            return sides.iter().all(|side| is_column(root, *side) || is_fixed(*side));
        }
        let is_plain = |side| is_column(root, side) || !contain_var_clause(side);
        let [left, right] = sides;
        is_plain(left) && is_plain(right)
            // What is computed from columns may be equal to what cannot change.
            || is_harmless(left) && is_fixed(right)
            || is_fixed(left) && is_harmless(right)
    }
}

/// Whether an expression is a column, or one as another type: not one of a UNION ALL that stands for an expression of its parts.
///
/// # Safety
/// As above, of a live expression.
unsafe fn is_column(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is, and a column's number is one of its table's.
    unsafe {
        check_stack_depth();
        match (*node).type_ {
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                cells((*root).append_rel_list).all(|part| {
                    let part = &*(*part).cast::<pg_sys::AppendRelInfo>();
                    if var.varlevelsup != 0 || part.parent_relid != var.varno as pg_sys::Index {
                        return true;
                    }
                    let column = usize::try_from(var.varattno - 1).ok();
                    column
                        .and_then(|column| cells(part.translated_vars).nth(column))
                        .is_some_and(|translated| !(*translated).is_null() && is_column(root, bare(*translated)))
                })
            }
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                call.funcformat != pg_sys::CoercionForm::COERCE_EXPLICIT_CALL
                    && length(call.args) == 1
                    && get_func_leakproof(call.funcid)
                    && is_column(root, bare(*(&raw mut (*(*call.args).elements).ptr_value).cast()))
            }
            _ => false,
        }
    }
}

/// Whether an expression has one value for as long as a scan runs: a constant, a parameter, or what a leakproof function (as amp's are) makes of them.
///
/// # Safety
/// As above, of a live expression.
unsafe fn is_fixed(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Const | NodeTag::T_Param => true,
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                get_func_leakproof(call.funcid) && cells(call.args).all(|argument| is_fixed(bare(*argument)))
            }
            _ => false,
        }
    }
}

/// Keeps an equation out of equivalence classes.
///
/// # Safety
/// As above, of a live condition of the query.
unsafe fn set_apart(condition: *mut *mut pg_sys::Node) {
    // SAFETY: by the contract above; the node is made where the query's are.
    unsafe {
        let test = palloc0(size_of::<pg_sys::BooleanTest>()).cast::<pg_sys::BooleanTest>();
        (*test).xpr.type_ = NodeTag::T_BooleanTest;
        (*test).arg = (*condition).cast();
        (*test).booltesttype = pg_sys::BoolTestType::IS_TRUE;
        (*test).location = -1;
        *condition = test.cast();
    }
}
