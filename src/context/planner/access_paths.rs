//! Once the access paths of a table are known (indexes may use conditions that PostgreSQL takes for leakproof), its conditions are no longer taken
//! for it: every filter then asks the policies first.
//!
//! An index that is not led by the tenant finds hidden rows as well, and two things are done for each of them before a filter is asked. Of two
//! such indexes that a bitmap scan combines, the second is asked only if the first has found something, and only then is its key computed: where
//! that can fail, they are not combined. And a bitmap scan, or an index that finds by hashes or shapes, compares what it has found with the key once
//! more: where that calls a function of the client's, it is not used.

use super::cells;
use super::equations::{is_among, is_equation, policies, sides};
use super::harmless::{is_harmless, is_quiet};
use crate::backend::Local;
use crate::context::executor;
use pgrx::pg_sys::{self, NodeTag};
use std::cell::Cell;

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the planner has to pass with every field it has.
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

static NEXT: Local<Cell<pg_sys::set_rel_pathlist_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(on_paths);
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
        if let Some(next) = NEXT.get() {
            next(root, table, index, entry);
        }
        if (*(*root).parse).hasRowSecurity && executor::installed() {
            distrust((*table).baserestrictinfo);
            distrust((*table).joininfo);
            distrust_derived(table);
            if (*entry).inh {
                // The paths of its parts may have got parameters, and with them derived conditions, only now.
                for part in cells((*root).append_rel_list) {
                    let part = (*(*part).cast::<pg_sys::AppendRelInfo>()).child_relid as usize;
                    let part = *(*root).simple_rel_array.add(part);
                    if !part.is_null() {
                        distrust_derived(part);
                    }
                }
            }
            // Under policies itself: only theirs have that level.
            if (*table).baserestrict_min_security == 0 {
                leave_telling_paths(root, table);
            }
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

/// The same for the conditions that were derived for its paths with parameters. Each is in the paths of both tables of a join, and whether an index of
/// the other one may use it is asked later: these get copies.
///
/// # Safety
/// A table whose paths are known, in a frame that owns nothing.
unsafe fn distrust_derived(table: *mut pg_sys::RelOptInfo) {
    // SAFETY: by the contract above; the copy is made where the planner's are, and the list is the path's own.
    unsafe {
        for path in cells((*table).ppilist) {
            for condition in cells((*(*path).cast::<pg_sys::ParamPathInfo>()).ppi_clauses) {
                let derived = (*condition).cast::<pg_sys::RestrictInfo>();
                if (*derived).security_level > 0 && (*derived).leakproof {
                    let copy = palloc0(size_of::<pg_sys::RestrictInfo>()).cast::<pg_sys::RestrictInfo>();
                    copy.write(*derived);
                    (*copy).leakproof = false;
                    *condition = copy.cast();
                }
            }
        }
    }
}

/// Takes paths away that tell what an index has found, and puts others in their place.
///
/// # Safety
/// A table whose paths are known, in a frame that owns nothing; so for those below.
unsafe fn leave_telling_paths(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) {
    // SAFETY: by the contract above; what is taken out of a list has been read from it.
    unsafe {
        let find = |paths| cells(paths).map(|path| *path).find(|path| tells(root, *path));
        while let Some(path) = find((*table).partial_pathlist) {
            (*table).partial_pathlist = list_delete_ptr((*table).partial_pathlist, path.cast());
        }
        while let Some(path) = find((*table).pathlist) {
            (*table).pathlist = list_delete_ptr((*table).pathlist, path.cast());
            let parameters = (*path.cast::<pg_sys::Path>()).param_info.as_ref();
            let outer = parameters.map_or((*table).lateral_relids, |parameters| parameters.ppi_req_outer);
            if parameters.is_none() {
                add_path(table, create_seqscan_path(root, table, outer, 0));
            }
            let bitmap = if (*path).type_ == NodeTag::T_BitmapHeapPath {
                (*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual
            } else {
                continue;
            };
            if (*bitmap).type_ == NodeTag::T_BitmapAndPath {
                for part in cells((*bitmap.cast::<pg_sys::BitmapAndPath>()).bitmapquals) {
                    if (**part).type_ == NodeTag::T_IndexPath && !is_heard(root, *part) {
                        let scan = create_bitmap_heap_path(root, table, (*part).cast(), outer, 1.0, 0);
                        add_path(table, scan.cast());
                    }
                }
            }
        }
    }
}

/// # Safety
/// As above, of a path.
unsafe fn tells(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*path).type_ {
            NodeTag::T_BitmapHeapPath => {
                let bitmap = (*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual.cast();
                is_hasty(root, bitmap) || is_heard(root, bitmap)
            }
            NodeTag::T_IndexPath => {
                let index = (*path.cast::<pg_sys::IndexPath>()).indexinfo;
                (*index).relam != pg_sys::BTREE_AM_OID && is_heard(root, path)
            }
            _ => false,
        }
    }
}

/// Whether a bitmap combines an index that finds hidden rows with one whose key can fail.
///
/// # Safety
/// As above, of a path below that of a bitmap scan.
unsafe fn is_hasty(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*path).type_ {
            NodeTag::T_BitmapOrPath => {
                cells((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals).any(|part| is_hasty(root, *part))
            }
            NodeTag::T_BitmapAndPath => {
                let parts = (*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals;
                let can_fail = |condition: &pg_sys::RestrictInfo| !is_harmless(condition.clause.cast());
                cells(parts).any(|part| each_index(*part, &|index| !is_led_by_tenant(root, index)))
                    && cells(parts).any(|part| each_index(*part, &|index| some_condition(index, &can_fail)))
            }
            _ => false,
        }
    }
}

/// Whether an index that finds hidden rows is asked by a key, or for an order, that calls a function of somebody's.
///
/// # Safety
/// As above, of an index's path, or one of a bitmap.
unsafe fn is_heard(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::Node) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        let calls = |condition: &pg_sys::RestrictInfo| !is_quiet(condition.clause.cast());
        each_index(path, &|index| {
            (some_condition(index, &calls) || cells((*index).indexorderbys).any(|order| !is_quiet(*order)))
                && !is_led_by_tenant(root, index)
        })
    }
}

/// Whether it is so of one of the indexes of a path.
///
/// # Safety
/// As above.
unsafe fn each_index(path: *mut pg_sys::Node, is: &dyn Fn(*mut pg_sys::IndexPath) -> bool) -> bool {
    // SAFETY: by the contract above; the tag says which node it is.
    unsafe {
        match (*path).type_ {
            NodeTag::T_BitmapAndPath => {
                cells((*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals).any(|part| each_index(*part, is))
            }
            NodeTag::T_BitmapOrPath => {
                cells((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals).any(|part| each_index(*part, is))
            }
            NodeTag::T_IndexPath => is(path.cast()),
            _ => false,
        }
    }
}

/// # Safety
/// As above, of an index's path.
unsafe fn some_condition(index: *mut pg_sys::IndexPath, is: &dyn Fn(&pg_sys::RestrictInfo) -> bool) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        cells((*index).indexclauses).any(|clause| {
            cells((*(*clause).cast::<pg_sys::IndexClause>()).indexquals)
                .any(|condition| is(&*(*condition).cast::<pg_sys::RestrictInfo>()))
        })
    }
}

/// Whether an index is asked first of all for what a policy compares: it finds the own tenant's rows alone, and compares that first.
///
/// # Safety
/// As above.
unsafe fn is_led_by_tenant(root: *mut pg_sys::PlannerInfo, index: *mut pg_sys::IndexPath) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        let compared = policies(root);
        let of_tenant = |side: &*mut pg_sys::Node| (**side).type_ == NodeTag::T_Var && is_among(compared, *side);
        cells((*index).indexclauses).any(|clause| {
            let clause = &*(*clause).cast::<pg_sys::IndexClause>();
            clause.indexcol == 0
                && cells(clause.indexquals).any(|condition| {
                    let condition = &*(*condition).cast::<pg_sys::RestrictInfo>();
                    let clause = condition.clause.cast();
                    condition.security_level == 0
                        && sides(clause).is_some_and(|sides| sides.iter().any(of_tenant))
                        && is_equation(clause)
                })
        })
    }
}
