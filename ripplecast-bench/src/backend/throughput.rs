//! Messages per second through one Redis: pushes on one node, at the maximum rate of a member on the other.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    bench::{Bench, judged},
    protocol::{Load, Request},
    report::Throughput,
};
use crate::result::Result;

/// Message sizes in bytes.
const SIZES: [usize; 2] = [64, 1024];
/// Pushes between two checks of what has arrived.
const CHUNK: u64 = 512;
/// The most messages in flight: far more than a round trip needs, and fewer than any queue on the way holds.
const WINDOW: u64 = 16_384;
/// The same limit in bytes: Redis disconnects a subscriber with 32 MiB queued.
const WINDOW_BYTES: u64 = 8 << 20;
/// Silence after which missing messages count as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// The pause between two checks while no message may be pushed.
const PAUSE: Duration = Duration::from_micros(200);

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (mut from, to) = (bench.node()?, bench.node()?);
    let member = bench.member(&mut from, &to)?;
    for size in SIZES {
        if bench.is_over() {
            break;
        }
        bench.say(&format!("pushes of {size} bytes through one Redis"));
        let window = WINDOW.min(WINDOW_BYTES / size as u64);
        let run = bench.next_run();
        member.begin(run);
        let before = bench.server.work()?;
        let began = Instant::now();
        let (mut sent, mut last, mut moved) = (0, 0, began);
        while began.elapsed() < bench.options.seconds && moved.elapsed() < SILENCE && !bench.is_over() {
            let received = member.received();
            if received != last {
                (last, moved) = (received, Instant::now());
            }
            if sent + CHUNK <= received + window {
                from.load(&Request::Push(Load { run, first: sent, count: CHUNK, size, rate: None }))?;
                sent += CHUNK;
            } else {
                member.check()?;
                thread::sleep(PAUSE);
            }
        }
        member.wait(sent)?;
        let after = bench.server.work()?;
        let seen = member.finish();
        let seconds = seen.span().as_secs_f64();
        let per_second = seen.received as f64 / seconds.max(1e-9);
        let redis_cpu_percent = (after.cpu - before.cpu) / seconds.max(1e-9) * 100.0;
        let series = judged(&seen, sent);
        bench.report.throughput.push(Throughput {
            size,
            window,
            seconds,
            per_second,
            redis_cpu_percent,
            series,
        });
    }
    Ok(())
}
