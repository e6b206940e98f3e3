//! Tests of `edit`.

use super::*;

fn edited(make: impl FnOnce(&mut Edits)) -> String {
    let mut edits = Edits::new();
    make(&mut edits);
    let mut out = b"> ".to_vec();
    edits.apply(b"0123456789", &mut out);
    let mut again = b"> ".to_vec();
    edits.apply(b"0123456789", &mut again);
    assert_eq!(out, again, "a list can be applied again");
    String::from_utf8(out).expect("ASCII")
}

fn span(start: usize, end: usize) -> Span {
    Span::new(start, end)
}

#[test]
fn no_edits_copy_the_message() {
    assert_eq!(edited(|_| {}), "> 0123456789");
}

#[test]
fn edits_may_come_in_any_order_of_places() {
    let out = edited(|edits| {
        edits.insert(10, b"end");
        edits.replace(span(5, 7), b"x");
        edits.remove(span(8, 9));
        edits.insert_with(0, |out| out.extend_from_slice(b"start "));
        edits.replace_with(span(2, 3), |out| out.extend_from_slice(b"two"));
    });
    assert_eq!(out, "> start 01two34x79end");
}

#[test]
fn insertions_at_one_place_keep_their_order_and_stand_before_a_replacement() {
    let out = edited(|edits| {
        edits.replace(span(3, 5), b"R");
        edits.insert(3, b"a");
        edits.insert(3, b"b");
        edits.insert(5, b"c");
    });
    assert_eq!(out, "> 012abRc56789");
}

#[test]
fn overlapping_removals_are_one() {
    let out = edited(|edits| {
        edits.remove(span(4, 8));
        edits.remove(span(2, 5));
        edits.remove(span(3, 4));
    });
    assert_eq!(out, "> 0189");
}

#[test]
fn edits_inside_a_removed_span_vanish_but_for_insertions_at_its_start() {
    let out = edited(|edits| {
        edits.replace(span(3, 4), b"gone");
        edits.insert(5, b"gone");
        edits.insert(2, b"stays ");
        edits.remove(span(2, 7));
        edits.insert(7, b" stays too ");
    });
    assert_eq!(out, "> 01stays  stays too 789");
}

#[test]
fn a_replacement_that_starts_with_a_removed_span_keeps_its_text() {
    for swap in [false, true] {
        let out = edited(|edits| {
            if swap {
                edits.replace(span(2, 4), b"R");
            }
            edits.remove(span(2, 6));
            if !swap {
                edits.replace(span(2, 4), b"R");
            }
        });
        assert_eq!(out, "> 01R6789");
    }
}

#[test]
fn many_edits_at_one_place_keep_their_order() {
    let out = edited(|edits| {
        for digit in 0..40u8 {
            edits.insert(5, &[b'A' + digit]);
        }
    });
    let wanted: String = (0..40u8).map(|digit| char::from(b'A' + digit)).collect();
    assert_eq!(out, format!("> 01234{wanted}56789"));
}

#[test]
fn places_past_the_end_are_the_end() {
    let out = edited(|edits| {
        edits.insert(40, b"x");
        edits.remove(span(9, 30));
    });
    assert_eq!(out, "> 012345678x");
}

#[test]
fn a_cleared_list_changes_nothing() {
    let mut edits = Edits::new();
    edits.remove(span(0, 5));
    edits.clear();
    let mut out = Vec::new();
    edits.apply(b"01", &mut out);
    assert_eq!(out, b"01");
}
