//! Changes of a config.json as a tree: what byte for byte would take ages to come by.

use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Value, json};

/// Where the values come from that a tree is mixed with.
const DONORS: [&str; 4] = [
    include_str!("../../seeds/everything.json"),
    include_str!("../../seeds/users.json"),
    include_str!("../../seeds/refused.json"),
    include_str!("../../../../launcher/tests/fixtures/redis-0.4.0.json"),
];

/// One change; `None` when the bytes are no tree, or every now and then, for a change of bytes.
pub fn config(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let mut chance = Chance(u64::from(seed) << 1 | 1);
    if chance.below(8) == 0 {
        return None;
    }
    let mut tree: Value = serde_json::from_slice(&data[..size]).ok()?;
    for _ in 0..=chance.below(3) {
        let places = count(&tree);
        let at = chance.below(places);
        change(find(&mut tree, &mut at.clone())?, &mut chance);
    }
    let text = serde_json::to_vec(&tree).ok().filter(|text| text.len() <= max_size)?;
    data[..text.len()].copy_from_slice(&text);
    Some(text.len())
}

fn change(value: &mut Value, chance: &mut Chance) {
    match (chance.below(6), value) {
        (0, Value::Object(map)) => {
            // Something that belongs here, from a good one.
            let donor = donor(chance);
            if let Value::Object(donor) = donor
                && let Some((name, value)) = donor.into_iter().nth(chance.below(12))
            {
                map.insert(name, value);
            }
        }
        (1, Value::Object(map)) => {
            let name = map.keys().nth(chance.below(map.len().max(1))).cloned();
            name.and_then(|name| map.remove(&name));
        }
        (0 | 1, Value::Array(list)) if !list.is_empty() => {
            let again = list[chance.below(list.len())].clone();
            list.push(again);
        }
        (2, Value::Array(list)) if !list.is_empty() => drop(list.remove(chance.below(list.len()))),
        (3, Value::Array(list)) if !list.is_empty() => {
            let at = chance.below(list.len());
            list.swap(at, 0);
        }
        (0..=3, Value::String(text)) => {
            let mut bytes = text.clone().into_bytes();
            let size = bytes.len();
            bytes.resize(size + 16, 0);
            let size = fuzzer_mutate(&mut bytes, size, size + 16);
            *text = String::from_utf8_lossy(&bytes[..size]).into_owned();
        }
        (4, value) => *value = donor(chance),
        (_, value) => *value = odd(chance),
    }
}

/// Some part of a good configuration.
fn donor(chance: &mut Chance) -> Value {
    let text = DONORS[chance.below(DONORS.len())];
    let mut tree: Value = serde_json::from_str(text).expect("the seeds are JSON");
    let mut at = chance.below(count(&tree));
    find(&mut tree, &mut at).map(Value::take).unwrap_or_default()
}

/// Values at the edges.
fn odd(chance: &mut Chance) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(""),
        json!("/"),
        json!(".."),
        json!("a\u{0}b"),
        json!("\n"),
        json!([]),
        json!({}),
        json!(0),
        json!(1),
        json!(-1),
        json!(i32::MAX),
        json!(i32::MIN),
        json!(u32::MAX),
        json!(u64::from(u32::MAX) + 1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(1.5),
        json!("é".repeat(100)),
        json!("@0-4294967295-4294967295"),
        json!("idmap=uids=@0-1-1;gids=0-0-1"),
        json!("0-8191"),
        json!("CAP_ALL"),
    ];
    values[chance.below(values.len())].clone()
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value at a position, in the order of a walk.
fn find<'a>(tree: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(tree);
    }
    *at -= 1;
    match tree {
        Value::Array(list) => list.iter_mut().find_map(|value| find(value, at)),
        Value::Object(map) => map.values_mut().find_map(|value| find(value, at)),
        _ => None,
    }
}

/// Numbers that look like chance and come from the seed alone (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        for shift in [13, -7, 17_i32] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        (self.0 >> 11) as usize % bound.max(1)
    }
}
