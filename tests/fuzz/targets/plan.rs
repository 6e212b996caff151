//! Any bytes as a plan on the wire: nothing panics, and whatever is accepted says the same when it is sent on.

#![no_main]

use brood_launcher::plan::wire::{decode, encode};
use libfuzzer_sys::{Corpus, fuzz_target};

/// As many as a plan of a seed comes with, so that some numbers are too large.
const FD_COUNT: usize = 16;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    match decode(bytes, FD_COUNT) {
        Ok(plan) => {
            let again = decode(&encode(&plan), FD_COUNT).expect("an accepted plan is accepted again");
            assert_eq!(again, plan, "a plan is the same after the wire");
        }
        // Each text is made, with all that is below it.
        Err(error) => drop(format!("{error}: {error:?}")),
    }
    Corpus::Keep
});
