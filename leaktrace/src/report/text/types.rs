//! What a site holds, in a few words.

use super::super::document::{NO_OBJECT, Site, TypeShare};
use super::units::{counted, percent};

/// Types that are named.
const NAMED: usize = 3;

/// What is said of blocks without an object in them.
const PARTS: &str = "holds no objects, but memory of such: items, tables, buffers";

/// `holds, by bytes: shop.Order (62.1 %), dict (25 %), (no object) (11.5 %) and 2 more types`; none where nothing is known,
/// or nothing lives.
#[must_use]
pub(super) fn holds(site: &Site) -> Option<String> {
    let types = site.types.as_ref().filter(|types| !types.is_empty())?;
    match types.as_slice() {
        [only] if only.name == NO_OBJECT => return Some(PARTS.to_owned()),
        [only] => return Some(format!("holds nothing but {}", only.name)),
        _ => {}
    }
    let named = types.iter().take(NAMED).map(|it| format!("{} ({})", it.name, share(it, site)));
    let named = named.collect::<Vec<_>>().join(", ");
    let others = match types.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {}", counted(more as u64, "more type")),
    };
    Some(format!("holds, by bytes: {named}{others}"))
}

/// Of the site's bytes; of its blocks where these have no bytes.
fn share(of: &TypeShare, site: &Site) -> String {
    let (part, whole) = match site.live_bytes {
        0 => (of.blocks, site.live_blocks),
        bytes => (of.bytes, bytes),
    };
    percent(100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::super::TypeShare;
    use super::super::super::tests::leaking;
    use super::holds;

    fn told(types: Option<&[(&str, u64, u64)]>, live_bytes: u64) -> Option<String> {
        let mut site = leaking().sites.remove(0);
        (site.live_bytes, site.live_blocks) = (live_bytes, 10);
        let share = |&(name, blocks, bytes): &(&str, u64, u64)| TypeShare {
            name: name.to_owned(),
            blocks,
            bytes,
        };
        site.types = types.map(|types| types.iter().map(share).collect());
        holds(&site)
    }

    #[test]
    fn the_main_types_are_told_and_what_is_not_known_is_not() {
        let many = [("shop.Order", 1, 621), ("dict", 1, 250), ("(no object)", 1, 100)];
        assert_eq!(
            told(Some(&many), 1000).as_deref(),
            Some("holds, by bytes: shop.Order (62.1 %), dict (25 %), (no object) (10 %)")
        );
        let more: Vec<_> = many.into_iter().chain([("set", 1, 19), ("int", 1, 10)]).collect();
        assert!(told(Some(&more), 1000).is_some_and(|text| text.ends_with(" and 2 more types")));
        assert_eq!(told(Some(&many[..1]), 621).as_deref(), Some("holds nothing but shop.Order"));
        let parts = told(Some(&[("(no object)", 1, 9)]), 9);
        assert_eq!(
            parts.as_deref(),
            Some("holds no objects, but memory of such: items, tables, buffers")
        );
        let empty = told(Some(&[("a", 9, 0), ("b", 1, 0)]), 0);
        assert_eq!(empty.as_deref(), Some("holds, by bytes: a (90 %), b (10 %)"));
        assert_eq!((told(Some(&[]), 0), told(None, 1000)), (None, None));
    }
}
