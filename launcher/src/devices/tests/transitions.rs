//! The way from one policy to another on cgroup v1.

use proptest::prelude::*;

use super::{Controller, policy, requests, rule};
use crate::devices::policy::Policy;
use crate::devices::v1::{Line, Transition, parse_list, transition};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every line leads to something that before or after allows as well, and the last one to what is wanted.
    #[test]
    fn a_transition_allows_nothing_in_between((_, old) in policy(), (_, new) in policy()) {
        let (before, after) = (Controller::of(&old), Controller::of(&new));
        let Transition { lines, exposes } = transition(&old, &new);
        let (mut now, mut exposed) = (before.clone(), false);
        for line in &lines {
            now.write_line(line);
            let more = requests().any(|r| now.allows(&r) && !before.allows(&r) && !after.allows(&r));
            prop_assert!(exposes || !more, "after {line:?}");
            exposed |= more;
        }
        for request in requests() {
            prop_assert_eq!(now.allows(&request), after.allows(&request), "{:?}", request);
        }
        prop_assert!(exposes || !exposed);
    }

    /// From what the file tells; the lines of a deny-list, which it does not tell, may only add to what is denied.
    #[test]
    fn a_transition_from_a_list((_, old) in policy(), (_, new) in policy()) {
        let (mut now, after) = (Controller::of(&old), Controller::of(&new));
        let list = now.list();
        for line in transition(&parse_list(&list).unwrap(), &new).lines {
            now.write_line(&line);
        }
        for request in requests() {
            let (now, after) = (now.allows(&request), after.allows(&request));
            prop_assert!(now == after || (old.allow && new.allow && !now), "{request:?}");
        }
    }

    #[test]
    fn nothing_is_written_twice((_, policy) in policy()) {
        prop_assert_eq!(transition(&policy, &policy).lines, Vec::<Line>::new());
    }

    #[test]
    fn no_list_makes_the_parser_panic(list in "[abc0-9*: \nrwm]{0,40}") {
        let _ = parse_list(&list);
    }
}

#[test]
fn a_new_directory_is_emptied_first() {
    let target = Policy::of(&[]).unwrap();
    let Transition { lines, exposes } = transition(&parse_list("a *:* rwm\n").unwrap(), &target);
    let texts: Vec<String> = lines.iter().map(text).collect();
    assert_eq!(texts[0], "deny a *:* rwm");
    assert_eq!(texts.len(), 12);
    assert!(texts.contains(&"allow c 136:* rwm".to_owned()), "{texts:?}");
    assert!(!exposes);
}

#[test]
fn a_line_that_stays_is_not_touched() {
    let of = |text: &str| Policy::of(&[rule(true, text)]).unwrap();
    let lines = transition(&of("c 10:229 rw"), &of("c 10:229 r")).lines;
    assert_eq!(lines.iter().map(text).collect::<Vec<_>>(), ["deny c 10:229 w"]);
    // The narrower line is there before the wider one goes.
    let lines = transition(&of("c 10:* rw"), &of("c 10:229 rw")).lines;
    assert_eq!(lines.iter().map(text).collect::<Vec<_>>(), ["allow c 10:229 rw", "deny c 10:* rw"]);
}

#[test]
fn a_deny_list_after_an_allow_list_is_told_to_expose() {
    let (some, all) = (Policy::of(&[]).unwrap(), Policy::of(&[rule(true, "a *:* rwm")]).unwrap());
    let but_one = Policy::of(&[rule(true, "a *:* rwm"), rule(false, "c 10:229 rwm")]).unwrap();
    assert!(transition(&some, &but_one).exposes);
    assert!(!transition(&some, &all).exposes, "everything is what is wanted");
    assert!(!transition(&all, &but_one).exposes);
    assert!(!transition(&but_one, &some).exposes);
}

#[test]
fn a_damaged_list_is_told() {
    for list in ["c 1:3\n", "x 1:3 rwm\n", "c 1 rwm\n", "c 1:3 q\n", "c -1:3 r\n"] {
        assert_eq!(parse_list(list), Err(list.trim_end()));
    }
}

fn text(line: &Line) -> String {
    format!("{} {} {}", if line.allow { "allow" } else { "deny" }, line.devices, line.access)
}
