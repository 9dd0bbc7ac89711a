//! Which expressions can neither fail nor do anything.

use super::cells;
use pgrx::pg_sys::{self, NodeTag};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the planner has to pass with every field it has.
    fn get_func_leakproof(function: pg_sys::Oid) -> bool;
    fn get_opcode(operator: pg_sys::Oid) -> pg_sys::Oid;
    fn check_stack_depth();
}

/// Whether an expression that leaks none of its columns can neither fail nor do anything else than give a value. What is not known here can.
///
/// # Safety
/// A live expression of which `contain_leaked_vars` is false, or null; in a frame that owns nothing.
pub(super) unsafe fn is_harmless(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above.
    unsafe { is_made_of(node, &|function| get_func_leakproof(function), false) }
}

/// Whether an expression of no columns can be computed again without that anybody hears of it: it calls nobody's function.
///
/// # Safety
/// A live expression, or null; in a frame that owns nothing.
pub(super) unsafe fn is_quiet(node: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        is_made_of(
            node,
            &|function| function.to_u32() < pg_sys::FirstNormalObjectId || get_func_leakproof(function),
            true,
        )
    }
}

/// Whether all functions in an expression are allowed; and parameters that are computed when they are first asked for.
///
/// # Safety
/// As of [`is_harmless`].
unsafe fn is_made_of(node: *mut pg_sys::Node, allowed: &dyn Fn(pg_sys::Oid) -> bool, computed: bool) -> bool {
    use NodeTag::*;
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        let Some(tag) = node.as_ref().map(|node| node.type_) else {
            return true;
        };
        check_stack_depth();
        let is = |node| is_made_of(node, allowed, computed);
        let all = |list| cells(list).all(|node| is(*node));
        match tag {
            T_Var | T_Const | T_CaseTestExpr | T_SQLValueFunction => true,
            T_Param => computed || (*node.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN,
            T_RelabelType => is((*node.cast::<pg_sys::RelabelType>()).arg.cast()),
            T_CollateExpr => is((*node.cast::<pg_sys::CollateExpr>()).arg.cast()),
            T_FieldSelect => is((*node.cast::<pg_sys::FieldSelect>()).arg.cast()),
            T_NullTest => is((*node.cast::<pg_sys::NullTest>()).arg.cast()),
            T_BooleanTest => is((*node.cast::<pg_sys::BooleanTest>()).arg.cast()),
            T_List => all(node.cast()),
            T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args),
            T_ArrayExpr => all((*node.cast::<pg_sys::ArrayExpr>()).elements),
            T_RowExpr => all((*node.cast::<pg_sys::RowExpr>()).args),
            T_CaseExpr => {
                let case = &*node.cast::<pg_sys::CaseExpr>();
                is(case.arg.cast()) && all(case.args) && is(case.defresult.cast())
            }
            T_CaseWhen => {
                let when = &*node.cast::<pg_sys::CaseWhen>();
                is(when.expr.cast()) && is(when.result.cast())
            }
            T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                allowed(call.funcid) && all(call.args)
            }
            T_OpExpr | T_DistinctExpr | T_NullIfExpr => {
                let call = &*node.cast::<pg_sys::OpExpr>();
                allowed(get_opcode(call.opno)) && all(call.args)
            }
            T_ScalarArrayOpExpr => {
                let call = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                allowed(get_opcode(call.opno)) && all(call.args)
            }
            _ => false,
        }
    }
}
