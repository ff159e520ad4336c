//! What a node knows of a table, beside a model of the server: changes come late, readings are under way meanwhile, and the
//! subscription is lost. Nothing that an observer is told goes backwards, and in the end it knows what is true.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::store::row::Value;

/// A row.
#[derive(Deserialize)]
#[expect(dead_code, reason = "only its columns are wanted")]
struct Number {
    n: u64,
}

/// What the server, the network or the node does next.
#[derive(Clone, Debug)]
enum Step {
    /// A row is written.
    Set(u8, u64),
    /// A row is deleted.
    Delete(u8),
    /// All are.
    Clear,
    /// The next published change arrives.
    Hear,
    /// The node begins to read, and the server answers.
    Ask,
    /// The answer arrives.
    Answer,
    /// The subscription is lost, with what was on its way; the node reads when it is back.
    Lose,
}

/// One step; few keys, so that they meet.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..3_u64).prop_map(|(key, n)| Step::Set(key, n)),
        3 => (0..4_u8).prop_map(Step::Delete),
        1 => Just(Step::Clear),
        6 => Just(Step::Hear),
        2 => Just(Step::Ask),
        2 => Just(Step::Answer),
        1 => Just(Step::Lose),
    ]
}

/// Of each row the last number that an observer was told, and the value.
type Told = BTreeMap<String, (u64, Option<u64>)>;

/// The server and the network, and the node.
struct World {
    /// The rows as they are.
    rows: BTreeMap<String, u64>,
    /// The number of the last change.
    number: u64,
    /// Changes on their way.
    published: VecDeque<String>,
    /// A reading on its way.
    answer: Option<Snapshot>,
    /// Whether the node has to read, since the subscription was lost.
    must_read: bool,
    /// What the node knows.
    known: Known,
    /// What an observer was told: of each row the last number and value.
    told: Arc<Mutex<Told>>,
    /// Keeps the observer.
    _observation: Observation,
}

/// The number in a row.
fn number_of(row: &[Value]) -> u64 {
    u64::try_from(row[0].as_integer().unwrap()).unwrap()
}

impl World {
    fn new() -> Self {
        let mut known = Known::new(Arc::new(Schema::of::<Number>("numbers", 10).unwrap()));
        let told: Arc<Mutex<Told>> = Arc::default();
        let writer = Arc::clone(&told);
        let observation = known.observers.add(Arc::new(move |key: &str, row: Option<RowRef<'_>>, number| {
            let row = row.map(|row| number_of(row.row));
            if let Some((before, _)) = writer.lock().insert(key.to_owned(), (number, row)) {
                assert!(before < number, "row {key} went back from {before} to {number}");
            }
        }));
        known.take(Snapshot { number: 0, rows: vec![] });
        let (rows, published) = (BTreeMap::new(), VecDeque::new());
        Self {
            rows,
            number: 0,
            published,
            answer: None,
            must_read: false,
            known,
            told,
            _observation: observation,
        }
    }

    /// What the server says when it is read.
    fn read(&mut self) -> Snapshot {
        self.number += 1;
        let row = |(key, n): (&String, &u64)| (key.as_str().into(), Row::from([Value::Int(*n as i64)]));
        Snapshot { number: self.number, rows: self.rows.iter().map(row).collect() }
    }

    /// The node hears of the next change.
    fn hear(&mut self) {
        if let Some(payload) = self.published.pop_front() {
            self.known.change(Change::parse(payload.as_bytes()).unwrap());
        }
    }

    /// The node begins to read.
    fn ask(&mut self) {
        if self.answer.is_none() {
            self.known.reading = true;
            self.must_read = false;
            self.answer = Some(self.read());
        }
    }

    /// The node is answered.
    fn take(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.known.take(answer);
            self.known.end();
        }
    }

    fn step(&mut self, step: &Step) {
        let item = |text: String| format!("{}:{text}", text.len());
        let number = item((self.number + 1).to_string());
        match step {
            Step::Set(key, n) => {
                self.number += 1;
                self.rows.insert(key.to_string(), *n);
                self.published.push_back(format!(
                    "S{number}{}1:n{}",
                    item(key.to_string()),
                    item(n.to_string())
                ));
            }
            Step::Delete(key) => {
                if self.rows.remove(&key.to_string()).is_some() {
                    self.number += 1;
                    self.published.push_back(format!("D{number}{}", item(key.to_string())));
                }
            }
            Step::Clear => {
                self.number += 1;
                self.rows.clear();
                self.published.push_back(format!("C{number}"));
            }
            Step::Hear => self.hear(),
            Step::Ask => self.ask(),
            Step::Answer => self.take(),
            Step::Lose => {
                self.published.clear();
                self.must_read = true;
            }
        }
    }

    /// Everything arrives.
    fn settle(&mut self) {
        self.take();
        if self.must_read {
            self.ask();
        }
        while !self.published.is_empty() {
            self.hear();
        }
        self.take();
    }
}

proptest! {
    #[test]
    fn observers_never_hear_what_is_older_and_end_with_what_is_true(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        let mut known = BTreeMap::new();
        world.known.show(Bound::Unbounded, &mut |key, row, _| {
            known.insert(key.to_owned(), number_of(row.row));
        });
        prop_assert_eq!(&known, &world.rows);
        let told = world.told.lock();
        let told: BTreeMap<_, _> =
            told.iter().filter_map(|(key, (_, row))| Some((key.clone(), (*row)?))).collect();
        prop_assert_eq!(&told, &world.rows);
        prop_assert!(world.known.rows.values().all(|entry| entry.row.is_some()), "nothing is left of a reading");
    }
}
