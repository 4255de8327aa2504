//! What the front door finds in the hot tier: an answer is there as long as its entry is.

use std::collections::HashMap;
use std::sync::Arc;

use embercache_native::answers::{Answer, Answers, Key, Tally};
use embercache_native::hot::{ENTRY_OVERHEAD_BYTES, HotTier, monotonic};
use proptest::prelude::*;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyDict};

/// How many entries fit in.
const ENTRIES: usize = 10;
const PAYLOAD: usize = 100;
const TAKEN: usize = 16 + PAYLOAD + ENTRY_OVERHEAD_BYTES;

fn key(number: u8) -> Key {
    [number; 16]
}

/// A tier whose clock and accounts are in hand. Each key has an account of its own, which tells
/// without a look at the entry whether it is there.
struct Tier<'py> {
    tier: Bound<'py, HotTier>,
    answers: Arc<Answers>,
    clock: Bound<'py, PyAny>,
    account: Bound<'py, PyAny>,
    accounts: HashMap<u8, Bound<'py, PyAny>>,
}

impl<'py> Tier<'py> {
    fn new(py: Python<'py>, policy: &str) -> Self {
        let names = PyDict::new(py);
        py.run(
            c"
from types import SimpleNamespace
class Clock:
    now = 100.0
    def __call__(self):
        return self.now
clock = Clock()
def account(name):
    return SimpleNamespace(namespace=name, hot_entries=0, hot_bytes=0, evictions=0)
",
            Some(&names),
            None,
        )
        .unwrap();
        let clock = names.as_any().get_item("clock").unwrap();
        let capacity = ENTRIES * TAKEN;
        let tier = py.get_type::<HotTier>();
        let tier = tier.call1((capacity, &clock, policy)).unwrap();
        let tier = tier.cast_into::<HotTier>().unwrap();
        Self {
            answers: tier.get().answers(),
            tier,
            clock,
            account: names.as_any().get_item("account").unwrap(),
            accounts: HashMap::new(),
        }
    }

    fn now(&self) -> f64 {
        self.clock.getattr("now").unwrap().extract().unwrap()
    }

    fn wait(&self, seconds: f64) {
        self.clock.setattr("now", self.now() + seconds).unwrap();
    }

    fn put(&mut self, number: u8, payload: usize, ttl: f64) {
        let py = self.tier.py();
        let account = &self.account;
        let account = self
            .accounts
            .entry(number)
            .or_insert_with(|| account.call1((format!("n{}", number % 2),)).unwrap());
        let options = PyDict::new(py);
        options.set_item("ttl", ttl).unwrap();
        let arguments = (&key(number)[..], py.None(), payload, &*account);
        self.tier
            .call_method("put", arguments, Some(&options))
            .unwrap();
    }

    fn fill(&mut self, numbers: impl IntoIterator<Item = u8>) {
        for number in numbers {
            self.put(number, PAYLOAD, f64::INFINITY);
        }
    }

    fn answer(&self, number: u8) {
        let py = self.tier.py();
        let tally = Py::new(py, Tally::default()).unwrap();
        let nothing: Vec<(usize, u64)> = vec![];
        let arguments = (&[number][..], &nothing, &nothing, tally, 1, 1);
        let answer = py.get_type::<Answer>().call1(arguments).unwrap();
        let arguments = (&key(number)[..], answer);
        self.tier.call_method1("answer", arguments).unwrap();
    }

    fn call(&self, method: &str, number: u8) -> Bound<'py, PyAny> {
        self.tier.call_method1(method, (&key(number)[..],)).unwrap()
    }

    fn is_there(&self, number: u8) -> bool {
        self.accounts.get(&number).is_some_and(|account| {
            let entries = account.getattr("hot_entries").unwrap();
            entries.extract::<i64>().unwrap() == 1
        })
    }

    fn is_found(&self, number: u8) -> bool {
        let found = self.answers.find(&key(number), self.now());
        if let Some(response) = &found {
            assert_eq!(&response.data[..], &[number]);
        }
        found.is_some()
    }

    fn limit(&self, bytes: Option<usize>) {
        let py = self.tier.py();
        let limit_of = bytes.map(|bytes| {
            let limits = PyDict::new(py);
            limits.set_item("n0", bytes).unwrap();
            limits.getattr("get").unwrap()
        });
        self.tier.call_method1("limit", (limit_of,)).unwrap();
    }
}

fn with_tier(policy: &str, test: impl Fn(Tier<'_>)) {
    Python::initialize();
    Python::attach(|py| test(Tier::new(py, policy)));
}

fn with_tiers(test: impl Fn(Tier<'_>)) {
    for policy in ["s3fifo", "lru"] {
        with_tier(policy, &test);
    }
}

#[test]
fn without_an_entry_no_answer_is_kept() {
    with_tiers(|mut tier| {
        tier.answer(1);
        tier.fill([1]);
        assert!(!tier.is_found(1));
        tier.answer(1);
        assert!(tier.is_found(1));
    });
}

#[test]
fn an_answer_goes_when_its_entry_is_removed_cleared_or_put_again() {
    with_tiers(|mut tier| {
        tier.fill([1, 2, 3, 4]);
        for number in 1..=4 {
            tier.answer(number);
        }
        tier.call("remove", 1);
        tier.fill([2]);
        tier.put(3, 1_000_000, f64::INFINITY);
        assert_eq!(
            [1, 2, 3, 4].map(|number| tier.is_found(number)),
            [false, false, false, true]
        );
        tier.tier.call_method0("clear").unwrap();
        assert!(!tier.is_found(4));
    });
}

#[test]
fn an_answer_expires_when_its_entry_does() {
    with_tiers(|mut tier| {
        tier.put(1, PAYLOAD, 5.0);
        tier.answer(1);
        tier.wait(4.9);
        assert!(tier.is_found(1));
        tier.wait(0.1);
        assert!(!tier.is_found(1));
    });
}

#[test]
fn an_answer_ends_with_its_tier() {
    with_tiers(|mut tier| {
        tier.fill([1]);
        tier.answer(1);
        let answers = tier.answers.clone();
        drop(tier);
        assert!(answers.find(&key(1), 100.0).is_none());
    });
}

#[test]
fn what_the_front_door_hit_is_spared_once_more_for_each_hit() {
    with_tiers(|mut tier| {
        tier.fill(0..10);
        tier.answer(0);
        assert!(tier.is_found(0));
        tier.fill([10]);
        assert_eq!((tier.is_there(0), tier.is_there(1)), (true, false));
    });
}

#[test]
fn what_the_front_door_hit_is_spared_in_a_namespace_at_its_limit() {
    with_tiers(|mut tier| {
        tier.limit(Some(2 * TAKEN));
        tier.fill([0, 2]);
        tier.answer(0);
        assert!(tier.is_found(0));
        tier.fill([4]);
        assert_eq!(
            [0, 2, 4].map(|number| tier.is_there(number)),
            [true, false, true]
        );
    });
}

#[test]
fn hits_of_the_front_door_and_of_python_count_together_up_to_three() {
    with_tiers(|mut tier| {
        tier.fill([1]);
        tier.answer(1);
        let hits = |tier: &Tier<'_>| -> u8 {
            let held = tier.call("get", 1);
            held.getattr("hits").unwrap().extract().unwrap()
        };
        assert!(tier.is_found(1));
        assert_eq!(hits(&tier), 2);
        for _ in 0..5 {
            assert!(tier.is_found(1));
        }
        assert_eq!(hits(&tier), 3);
    });
}

#[test]
fn the_key_of_an_answer_has_sixteen_bytes() {
    with_tiers(|tier| {
        let py = tier.tier.py();
        let tally = Py::new(py, Tally::default()).unwrap();
        let nothing: Vec<(usize, u64)> = vec![];
        let arguments = (&b""[..], &nothing, &nothing, tally, 1, 1);
        let answer = py.get_type::<Answer>().call1(arguments).unwrap();
        let refused = tier.tier.call_method1("answer", (&b"short"[..], answer));
        let message = refused.unwrap_err().to_string();
        assert_eq!(
            message,
            "ValueError: the key of an answer has 16 bytes, not 5"
        );
    });
}

#[test]
fn the_clock_is_that_of_python() {
    Python::initialize();
    Python::attach(|py| {
        let theirs = || -> f64 {
            let time = py.import("time").unwrap();
            time.call_method0("monotonic").unwrap().extract().unwrap()
        };
        let (before, ours, after) = (theirs(), monotonic(), theirs());
        assert!(before <= ours && ours <= after);
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8, usize, f64),
    Answer(u8),
    Get(u8),
    Hit(u8),
    Remove(u8),
    Limit(Option<usize>),
    Wait(f64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..20_u8;
    let ttl = prop_oneof![Just(1.0), Just(f64::INFINITY)];
    prop_oneof![
        8 => (number.clone(), prop_oneof![8 => Just(PAYLOAD), 1 => Just(100_000)], ttl)
            .prop_map(|(number, payload, ttl)| Step::Put(number, payload, ttl)),
        6 => number.clone().prop_map(Step::Answer),
        2 => number.clone().prop_map(Step::Get),
        2 => number.clone().prop_map(Step::Hit),
        1 => number.prop_map(Step::Remove),
        1 => prop_oneof![Just(None), (1..6_usize).prop_map(|entries| Some(entries * TAKEN))]
            .prop_map(Step::Limit),
        1 => prop_oneof![Just(0.5), Just(1.0)].prop_map(Step::Wait),
        1 => Just(Step::Clear),
    ]
}

fn play(mut tier: Tier<'_>, steps: &[Step]) {
    // The keys that have an answer as long as their entry is there, and when it expires.
    let mut answered: HashMap<u8, f64> = HashMap::new();
    let mut expires: HashMap<u8, f64> = HashMap::new();
    for &step in steps {
        match step {
            Step::Put(number, payload, ttl) => {
                tier.put(number, payload, ttl);
                answered.remove(&number);
                expires.insert(number, tier.now() + ttl);
            }
            Step::Answer(number) => {
                tier.answer(number);
                if tier.is_there(number) {
                    answered.insert(number, expires[&number]);
                }
            }
            Step::Get(number) => drop(tier.call("get", number)),
            Step::Hit(number) => drop(tier.is_found(number)),
            Step::Remove(number) => drop(tier.call("remove", number)),
            Step::Limit(bytes) => tier.limit(bytes),
            Step::Wait(seconds) => tier.wait(seconds),
            Step::Clear => drop(tier.tier.call_method0("clear").unwrap()),
        }
        answered.retain(|&number, _| tier.is_there(number));
        for number in 0..20 {
            let is_expected = answered.get(&number).is_some_and(|&end| end > tier.now());
            // A look that finds one is a hit, which changes what goes next, and nothing here.
            assert_eq!(
                tier.is_found(number),
                is_expected,
                "{number} after {step:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_found_exactly_as_long_as_its_entry_is_there(
        is_lru: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        with_tier(if is_lru { "lru" } else { "s3fifo" }, |tier| play(tier, &steps));
    }
}
