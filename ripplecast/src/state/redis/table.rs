//! Tables on Redis: a hash for each row, an index that numbers the rows, and the deadlines of rows that
//! expire. Each operation is a script (`lua/*.lua`).

mod change;
mod rows;

use std::{
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Script, ScriptInvocation, Value as Raw};
use tokio::time::{Instant, timeout_at};

use self::rows::{ObservedRows, WatchedTable};
use super::{
    history::Moment,
    shared::{RedisShared, as_count, as_text, invalid, milliseconds},
    text,
    watch::Watch,
};
use crate::{
    Error, Result,
    error::{BackendError, StateError},
    log::{cut, limited},
    redis_client::TIME_LIMIT,
    reply::Reply,
    state::{
        Epoch, Observation, RawPage, TableBackend, TableObserver, Version,
        row::{Row, RowRef, Value},
        schema::{Column, Schema},
        table::Cursor,
    },
};

/// A table script: the common prefix and its own part.
macro_rules! script {
    ($name:ident, $file:literal) => {
        #[doc = concat!("See `lua/", $file, "`.")]
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("lua/table.lua"), "\n", include_str!(concat!("lua/", $file))))
        });
    };
}

script!(SET, "set.lua");
script!(GET, "get.lua");
script!(DELETE, "delete.lua");
script!(ADD, "add.lua");
script!(REPLACE, "replace.lua");
script!(EXPIRE, "expire.lua");
script!(LEN, "len.lua");
script!(CLEAR, "clear.lua");
script!(SCAN, "scan.lua");

/// Prefix of each scan cursor on Redis.
const CURSOR: &str = "r";

pub(super) struct RedisTable {
    place: Arc<TableKeys>,
    /// The table's watch, alive while the table is observed.
    watch: Mutex<Weak<Watch<WatchedTable>>>,
}

/// Where a table is stored, and its declaration.
struct TableKeys {
    shared: Arc<RedisShared>,
    schema: Arc<Schema>,
    /// The keys of the index, the deadlines, and the history.
    keys: [String; 3],
    /// The channel on which changes are published.
    channel: String,
}

/// The answer of a script.
enum TableReply {
    Done(Vec<Raw>),
    /// The number of rows the table would hold.
    Full(usize),
    /// The current value; the sum is out of range.
    OutOfRange(i128),
    /// The scan belongs to another history.
    OtherHistory,
}

impl RedisTable {
    /// Creates a table with that schema.
    pub(super) fn new(shared: &Arc<RedisShared>, schema: &Arc<Schema>) -> Self {
        let key = |suffix| shared.redis.key("t", schema.table(), suffix);
        let place = TableKeys {
            shared: Arc::clone(shared),
            schema: Arc::clone(schema),
            keys: [key(":i"), key(":d"), key(":n")],
            channel: key(""),
        };
        Self { place: Arc::new(place), watch: Mutex::default() }
    }

    /// Returns the table's watch, created if necessary.
    fn watch(&self) -> Arc<Watch<WatchedTable>> {
        let mut slot = self.watch.lock();
        if let Some(watch) = slot.upgrade() {
            return watch;
        }
        let source = WatchedTable { place: Arc::clone(&self.place) };
        let rows = ObservedRows::new(Arc::clone(&self.place.schema));
        let watch = Watch::new(&self.place.shared, self.place.channel.clone(), source, rows);
        *slot = Arc::downgrade(&watch);
        watch
    }
}

impl TableKeys {
    /// Prepares a call of that script.
    fn call(&self, script: &'static LazyLock<Script>) -> ScriptInvocation<'static> {
        let mut call = script.prepare_invoke();
        call.key(&self.keys[..]);
        call.arg(self.shared.publish()).arg(&self.channel).arg(Epoch::random().to_string());
        call
    }

    /// Adds the number of columns and their names to a call.
    fn call_with(&self, call: &mut ScriptInvocation<'static>, columns: &[Column]) {
        call.arg(columns.len());
        for column in columns {
            call.arg(column.name);
        }
    }

    /// Runs a script, and repeats it while more rows have expired than one call deletes. Stops at the time
    /// limit of one operation; the next operation then continues the deletion.
    async fn run(&self, call: &ScriptInvocation<'_>) -> Result<TableReply> {
        let (redis, end) = (&self.shared.redis, Instant::now() + TIME_LIMIT);
        // The first call has its own time limit.
        let mut answer: Vec<Raw> = redis.script(&self.keys[0], call).await?;
        loop {
            let status = match answer.first() {
                Some(Raw::Int(status)) => *status,
                _ => return Err(self.invalid()),
            };
            answer.remove(0);
            match (status, &answer[..]) {
                (0, _) => return Ok(TableReply::Done(answer)),
                (1, _) => {
                    answer = timeout_at(end, redis.script(&self.keys[0], call))
                        .await
                        .map_err(|_| BackendError::TimedOut { after: TIME_LIMIT })??;
                }
                (2, [rows]) => return as_count(rows).map(TableReply::Full).ok_or_else(|| self.invalid()),
                (3, [value]) => {
                    let value = as_text(value).and_then(|value| value.parse().ok());
                    return value.map(TableReply::OutOfRange).ok_or_else(|| self.invalid());
                }
                (4, _) => return Ok(TableReply::OtherHistory),
                _ => return Err(self.invalid()),
            }
        }
    }

    /// Runs a script that can't exceed any limit except the capacity.
    async fn done(&self, call: &ScriptInvocation<'_>) -> Result<Vec<Raw>> {
        match self.run(call).await? {
            TableReply::Done(answer) => Ok(answer),
            TableReply::Full(rows) => Err(self.full(rows)),
            TableReply::OutOfRange(_) | TableReply::OtherHistory => Err(self.invalid()),
        }
    }

    /// Runs a script that returns a single number.
    async fn count(&self, call: &ScriptInvocation<'_>) -> Result<usize> {
        match &self.done(call).await?[..] {
            [count] => as_count(count).ok_or_else(|| self.invalid()),
            _ => Err(self.invalid()),
        }
    }

    /// Returns the error for a full table.
    fn full(&self, rows: usize) -> Error {
        let (table, capacity) = (self.schema.table().to_owned(), self.schema.capacity());
        StateError::TableFull { table, capacity, rows }.into()
    }

    /// Returns the error for a reply that no script returns.
    fn invalid(&self) -> Error {
        invalid(&format!(
            "table `{}`: its keys in Redis hold data that this library did not write",
            self.schema.table()
        ))
    }

    /// Writes rows, all or none, which expire after `expires`, if given.
    async fn set(
        &self,
        rows: impl IntoIterator<Item = (&str, &Row)>,
        expires: Option<Duration>,
    ) -> Result<()> {
        let mut call = self.call(&SET);
        call.arg(self.schema.capacity());
        call.arg(expires.map_or_else(|| "never".to_owned(), milliseconds));
        self.call_with(&mut call, self.schema.columns());
        for (key, row) in rows {
            call.arg(key);
            add_values(&mut call, row);
        }
        self.done(&call).await.map(drop)
    }

    /// Reads some columns of several rows.
    async fn get(&self, keys: impl IntoIterator<Item = &str>, columns: &[Column]) -> Result<Vec<Raw>> {
        let mut call = self.call(&GET);
        self.call_with(&mut call, columns);
        let mut wanted = 0;
        for key in keys {
            call.arg(key);
            wanted += 1;
        }
        match self.done(&call).await?.pop() {
            Some(Raw::Array(rows)) if rows.len() == wanted => Ok(rows),
            _ => Err(self.invalid()),
        }
    }

    /// Parses a row of an answer; `None` if there is none.
    fn row(&self, key: &str, raw: &Raw) -> Result<Option<Row>> {
        match raw {
            Raw::Nil => Ok(None),
            Raw::Array(values) if values.len() == self.schema.columns().len() => {
                Ok(Some(text::read_row(&self.schema, key, values.iter().map(as_bytes))?))
            }
            _ => Err(self.invalid()),
        }
    }

    /// Reads one column of a row.
    async fn get_field(&self, key: &str, column: usize) -> Result<Option<Value>> {
        let column = &self.schema.columns()[column];
        match &self.get([key], std::slice::from_ref(column)).await?[..] {
            [Raw::Nil] => Ok(None),
            [Raw::Array(values)] => match &values[..] {
                [Raw::Nil] => Ok(Some(column.kind.zero())),
                [value] => {
                    let bytes = as_bytes(value).ok_or_else(|| self.invalid())?;
                    Ok(Some(text::read_value(&self.schema, key, column, bytes)?))
                }
                _ => Err(self.invalid()),
            },
            _ => Err(self.invalid()),
        }
    }

    /// Adds to a column and returns the sum.
    async fn add(&self, key: &str, column: usize, by: i128) -> Result<i128> {
        let &Column { name, kind, .. } = &self.schema.columns()[column];
        let (least, greatest) = kind.range().unwrap_or_default();
        let mut call = self.call(&ADD);
        call.arg(self.schema.capacity()).arg(key).arg(name);
        call.arg(by.to_string()).arg(least.to_string()).arg(greatest.to_string());
        match self.run(&call).await? {
            TableReply::Done(sum) => {
                let sum = sum.first().and_then(as_text).and_then(|sum| sum.parse().ok());
                sum.ok_or_else(|| self.invalid())
            }
            TableReply::Full(rows) => Err(self.full(rows)),
            TableReply::OutOfRange(value) => Err(StateError::ColumnOverflow {
                table: self.schema.table().to_owned(),
                key: key.to_owned(),
                column: name,
                kind: kind.name(),
                value,
                by,
            }
            .into()),
            TableReply::OtherHistory => Err(self.invalid()),
        }
    }

    /// Replaces or deletes a row if it is the expected one.
    async fn replace(&self, key: &str, expected: Option<Row>, new: Option<Row>) -> Result<bool> {
        let mut call = self.call(&REPLACE);
        call.arg(self.schema.capacity()).arg(key);
        self.call_with(&mut call, self.schema.columns());
        add_values(&mut call, &self.schema.zero_row());
        for row in [expected, new] {
            call.arg(u8::from(row.is_some()));
            if let Some(row) = row {
                add_values(&mut call, &row);
            }
        }
        Ok(self.count(&call).await? > 0)
    }

    /// Sets when rows expire. Returns how many of them exist.
    async fn expire(&self, keys: &[Box<str>], after: Duration) -> Result<usize> {
        let mut call = self.call(&EXPIRE);
        call.arg(milliseconds(after));
        for key in keys {
            call.arg(&**key);
        }
        self.count(&call).await
    }

    /// Returns up to `limit` rows created after the change `after`, in a scan that began at `began`. Returns
    /// `None` if the scan belongs to another history. `known` is the epoch and number known to the reader.
    async fn scan_rows(
        &self,
        began: &str,
        after: u64,
        limit: Option<usize>,
        (epoch, number): (&str, &str),
    ) -> Result<Option<(Moment, Vec<ScannedRow>)>> {
        let mut call = self.call(&SCAN);
        self.call_with(&mut call, self.schema.columns());
        call.arg(began).arg(after);
        match limit {
            None => call.arg(-1),
            Some(limit) => call.arg(limit),
        };
        call.arg(epoch).arg(number);
        let answer = match self.run(&call).await? {
            TableReply::Done(answer) => answer,
            TableReply::OtherHistory => return Ok(None),
            TableReply::Full(_) | TableReply::OutOfRange(_) => return Err(self.invalid()),
        };
        let [number, Raw::Array(rows), epoch] = &answer[..] else { return Err(self.invalid()) };
        let moment = || {
            let (epoch, number) = (as_text(epoch)?.parse().ok()?, as_text(number)?.parse().ok()?);
            Some(Moment { epoch, number })
        };
        let moment = moment().ok_or_else(|| self.invalid())?;
        let scanned = rows.chunks_exact(3).map(|row| {
            let key = as_text(&row[0])?;
            // Redis may format it with an exponent. It is far below 2^53.
            let born = as_text(&row[1])?.parse::<f64>().ok()? as u64;
            Some(ScannedRow { key: key.into(), born, row: self.row(key, &row[2]) })
        });
        let scanned = scanned.collect::<Option<_>>().ok_or_else(|| self.invalid())?;
        Ok(Some((moment, scanned)))
    }

    /// Returns a page of a scan.
    async fn page(&self, cursor: Option<&Cursor>, limit: usize) -> Result<RawPage> {
        let unknown = || StateError::UnknownCursor {
            table: self.schema.table().to_owned(),
            cursor: cursor.map(Cursor::to_string).unwrap_or_default(),
        };
        let place = cursor.map(|cursor| parse_cursor(cursor.as_str()).ok_or_else(unknown)).transpose()?;
        // One extra row shows whether there is another page.
        let most = Some(limit.saturating_add(1));
        let scan = match place {
            None => self.scan_rows("begin", 0, most, ("", "")).await?,
            Some((Moment { epoch, number }, after)) => {
                self.scan_rows(&number.to_string(), after, most, (&epoch.to_string(), "")).await?
            }
        };
        let (began, mut scanned) = scan.ok_or_else(unknown)?;
        let is_last = scanned.len() <= limit;
        scanned.truncate(limit);
        let next = scanned.last().filter(|_| !is_last).map(|last| cursor_at(began, last.born));
        let mut rows = Vec::with_capacity(scanned.len());
        for ScannedRow { key, row, .. } in scanned {
            if let Some(row) = row? {
                rows.push((key, row));
            }
        }
        Ok(RawPage { rows, next })
    }

    /// Returns all rows as of one moment. A row that can't be parsed is logged and left out. Begins an epoch
    /// if Redis lacks changes known to the reader.
    async fn snapshot(&self, known: Option<Moment>) -> Result<(Moment, Vec<(Box<str>, Row)>)> {
        let (epoch, number) =
            known.map_or_else(Default::default, |at| (at.epoch.to_string(), at.number.to_string()));
        let scan = self.scan_rows("all", 0, None, (&epoch, &number)).await?;
        let (moment, scanned) = scan.ok_or_else(|| self.invalid())?;
        let mut rows = Vec::with_capacity(scanned.len());
        for ScannedRow { key, row, .. } in scanned {
            match row {
                Ok(Some(row)) => rows.push((key, row)),
                Ok(None) => {}
                Err(error) => {
                    limited!(ERROR, error = %cut(error), "a row can't be read and is not published");
                }
            }
        }
        Ok((moment, rows))
    }
}

/// A row returned by a scan.
struct ScannedRow {
    key: Box<str>,
    /// The number of the change that created the row.
    born: u64,
    /// An error if the values can't be parsed.
    row: Result<Option<Row>>,
}

/// Returns the cursor of a scan that began at that point and last returned the row created by the change
/// `after`.
fn cursor_at(Moment { epoch, number }: Moment, after: u64) -> Cursor {
    Cursor::new(format!("{CURSOR}-{epoch}-{number}-{after}"))
}

fn parse_cursor(cursor: &str) -> Option<(Moment, u64)> {
    let mut parts = cursor.split('-');
    if parts.next() != Some(CURSOR) {
        return None;
    }
    let (epoch, number, after) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((Moment { epoch, number }, after))
}

/// Adds the values of a row to a call.
fn add_values(call: &mut ScriptInvocation<'static>, row: &Row) {
    for value in row.iter() {
        call.arg(text::write(value));
    }
}

/// Reads bytes in an answer.
fn as_bytes(raw: &Raw) -> Option<&[u8]> {
    match raw {
        Raw::BulkString(bytes) => Some(bytes),
        Raw::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

impl TableBackend for RedisTable {
    fn set<'a>(&'a self, key: &'a str, row: Row, expires: Option<Duration>) -> Reply<'a, ()> {
        Reply::later(async move { self.place.set([(key, &row)], expires).await })
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Row>> {
        Reply::later(async move {
            let rows = self.place.get([key], self.place.schema.columns()).await?;
            self.place.row(key, rows.first().unwrap_or(&Raw::Nil))
        })
    }

    fn get_field<'a>(&'a self, key: &'a str, column: usize) -> Reply<'a, Option<Value>> {
        Reply::later(self.place.get_field(key, column))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        Reply::later(async move {
            let mut call = self.place.call(&DELETE);
            call.arg(key);
            Ok(self.place.count(&call).await? > 0)
        })
    }

    fn exists<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        Reply::later(async move { Ok(self.place.get([key], &[]).await? != [Raw::Nil]) })
    }

    fn add<'a>(&'a self, key: &'a str, column: usize, by: i128) -> Reply<'a, i128> {
        Reply::later(self.place.add(key, column, by))
    }

    fn expire<'a>(&'a self, keys: &'a [Box<str>], after: Duration) -> Reply<'a, usize> {
        Reply::later(self.place.expire(keys, after))
    }

    fn len(&self) -> Reply<'_, usize> {
        Reply::later(async move { self.place.count(&self.place.call(&LEN)).await })
    }

    fn scan<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Reply<'a, RawPage> {
        Reply::later(self.place.page(cursor, limit))
    }

    fn get_many<'a>(&'a self, keys: &'a [Box<str>]) -> Reply<'a, Vec<Option<Row>>> {
        Reply::later(async move {
            let rows = self.place.get(keys.iter().map(|key| &**key), self.place.schema.columns()).await?;
            keys.iter().zip(&rows).map(|(key, row)| self.place.row(key, row)).collect()
        })
    }

    fn set_many(&self, rows: Vec<(Box<str>, Row)>) -> Reply<'_, ()> {
        Reply::later(async move { self.place.set(rows.iter().map(|(key, row)| (&**key, row)), None).await })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Row>,
        new: Option<Row>,
    ) -> Reply<'a, bool> {
        Reply::later(self.place.replace(key, expected, new))
    }

    fn clear(&self) -> Reply<'_, usize> {
        Reply::later(async move { self.place.count(&self.place.call(&CLEAR)).await })
    }

    fn observe(&self, observer: Arc<TableObserver>) -> Observation {
        let watch = self.watch();
        let observation = watch.known.lock().model.observers.add(observer);
        observation.and_keep(watch)
    }

    fn ready(&self) -> Reply<'_, ()> {
        let watch = self.watch.lock().upgrade();
        match watch {
            Some(watch) => Reply::later(async move { watch.ready().await }),
            None => Reply::Ready(Some(Ok(()))),
        }
    }

    fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, Version)) {
        let watch = self.watch.lock().upgrade();
        if let Some(watch) = watch {
            watch.inspect_row(key, look);
        }
    }

    fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, Version)) {
        let watch = self.watch.lock().upgrade();
        if let Some(watch) = watch {
            watch.inspect(look);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_others_are_rejected() {
        let began = Moment { epoch: Epoch::random(), number: 7 };
        assert_eq!(parse_cursor(cursor_at(began, u64::MAX).as_str()), Some((began, u64::MAX)));
        let epoch = began.epoch;
        for wrong in ["", "r", "r-1", "r-1-2", "r-1-2-3", "x-1-2", "1-2-3"] {
            assert_eq!(parse_cursor(wrong), None, "{wrong}");
        }
        for wrong in ["1", "1-2-3", "-1-2", "1-99999999999999999999"] {
            assert_eq!(parse_cursor(&format!("r-{epoch}-{wrong}")), None, "{wrong}");
        }
    }
}
