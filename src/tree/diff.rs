//! What differs between two trees, without reading what they share.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::format::Key;

use super::TreeError;
use super::cursor::{At, Cursor};
use super::nodes::Nodes;

/// Called with a key, its value before and its value after; at least one is there, and they
/// differ.
pub type VisitChange<'a> = dyn FnMut(Key, Option<Bytes>, Option<Bytes>) + 'a;

/// Calls `visit` for each record that differs, in key order.
pub(super) fn diff(
    before: Nodes<'_>,
    after: Nodes<'_>,
    visit: &mut VisitChange<'_>,
) -> Result<(), TreeError> {
    // Equal ids are equal content, wherever the nodes lie: nothing to look for.
    if before.root.map(|root| root.id) == after.root.map(|root| root.id) {
        return Ok(());
    }
    let (mut before, mut after) = (Cursor::new(before)?, Cursor::new(after)?);
    loop {
        let order = match (before.key(), after.key()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.cmp(after),
        };
        match order {
            Ordering::Less => {
                one_sided(&mut before, &mut |key, value| visit(key, Some(value), None))?
            }
            Ordering::Greater => {
                one_sided(&mut after, &mut |key, value| visit(key, None, Some(value)))?
            }
            Ordering::Equal => both(&mut before, &mut after, visit)?,
        }
    }
}

/// What is here has no counterpart that begins with the same key: look into it.
fn one_sided(cursor: &mut Cursor<'_>, visit: &mut dyn FnMut(Key, Bytes)) -> Result<(), TreeError> {
    if let Some(At::Record(key, value)) = cursor.at() {
        visit(key, value);
        cursor.skip();
        return Ok(());
    }
    cursor.descend()
}

fn both(
    before: &mut Cursor<'_>,
    after: &mut Cursor<'_>,
    visit: &mut VisitChange<'_>,
) -> Result<(), TreeError> {
    let (into_before, into_after) = match (before.at(), after.at()) {
        (Some(At::Record(key, old)), Some(At::Record(_, new))) => {
            if old != new {
                visit(key, Some(old), Some(new));
            }
            (false, false)
        }
        (Some(At::Child(_, old)), Some(At::Child(_, new))) if old.node.id == new.node.id => {
            (false, false)
        }
        // The higher one may have the lower one, or one that it equals, inside.
        (Some(At::Child(before, _)), Some(At::Child(after, _))) => {
            (before >= after, after >= before)
        }
        (before, after) => {
            let is_child = |at: &Option<At<'_>>| matches!(at, Some(At::Child(..)));
            (is_child(&before), is_child(&after))
        }
    };
    if !into_before && !into_after {
        before.skip();
        after.skip();
        return Ok(());
    }
    if into_before {
        before.descend()?;
    }
    if into_after {
        after.descend()?;
    }
    Ok(())
}
