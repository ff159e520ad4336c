//! The cost of a push for Redis and for each node: with two and three nodes, of which some have members.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    bench::{Bench, judged},
    member::Member,
    node,
    peer::Peer,
    protocol::{Load, Request},
    report::{NodeCost, Spread},
};
use crate::load::measure::Process;
use crate::result::Result;

/// Pushes per second.
const RATE: f64 = 1000.0;
/// Bytes per message.
const SIZE: usize = 64;
/// The number of nodes, and how many of them have a member. The first node pushes and has none.
const CASES: [(usize, usize); 4] = [(2, 1), (3, 1), (3, 2), (3, 0)];
/// The time limit for Redis to process members' unsubscriptions.
const SETTLE: Duration = Duration::from_secs(10);

/// Measures each case, and then the cost without pushes.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut nodes = Vec::new();
    for (count, with_members) in CASES {
        while nodes.len() < count {
            nodes.push(bench.node()?);
        }
        for pushes in [true, false] {
            // Measure the idle cost once, with the most nodes.
            if bench.is_over() || (!pushes && (count, with_members) != (3, 1)) {
                continue;
            }
            let what = if pushes { "pushes" } else { "no pushes" };
            bench.say(&format!("{what}, {count} nodes, {with_members} with members"));
            let spread = case(bench, &mut nodes, with_members, pushes)?;
            bench.report.nodes.push(spread);
        }
    }
    Ok(())
}

/// Measures one case.
fn case(bench: &mut Bench, nodes: &mut [Peer], with_members: usize, pushes: bool) -> Result<Spread> {
    let mut members = Vec::new();
    if let [first, others @ ..] = nodes {
        for other in &others[..with_members] {
            members.push(bench.member(first, other)?);
        }
    }
    settle(bench, with_members as u64)?;
    let run = bench.next_run();
    members.iter().for_each(|member| member.begin(run));
    let subscribers = bench.server.subscribers(&bench.prefix, node::ROOM)?;
    let seconds = bench.options.seconds.as_secs_f64();
    let count = if pushes { (RATE * seconds).ceil() as u64 } else { 0 };
    let theirs_before = costs(nodes)?;
    let sent_before = nodes[0].counts()?.sent;
    // Query twice, so that the first query's own cost is not attributed to the pushes.
    let (earlier, before) = (bench.server.work()?, bench.server.work()?);
    let began = Instant::now();
    if pushes {
        let load = Load { run, first: 0, count, size: SIZE, rate: Some(RATE) };
        nodes[0].load(&Request::Push(load))?;
        wait(&members, count)?;
        depart(&mut nodes[0], sent_before + count)?;
    } else {
        thread::sleep(bench.options.seconds);
    }
    let took = began.elapsed().as_secs_f64();
    let (mut after, theirs_after) = (bench.server.work()?, costs(nodes)?);
    after.bytes_in -= before.bytes_in - earlier.bytes_in;
    after.bytes_out -= before.bytes_out - earlier.bytes_out;
    // Idle costs are per second, in which 1,000 pushes would be sent.
    let thousands = if pushes { count as f64 / 1000.0 } else { took * RATE / 1000.0 };
    let each = |before: f64, after: f64| (after - before) / thousands;
    let nodes =
        theirs_before.into_iter().zip(theirs_after).map(|((cpu, received), (cpu_after, later))| NodeCost {
            received: later - received,
            cpu_ms: cpu.zip(cpu_after).map(|(before, after)| each(before, after) * 1000.0),
        });
    Ok(Spread {
        nodes: nodes.collect(),
        with_members,
        pushes: count,
        subscribers,
        published: after.published - before.published,
        redis_bytes_in: each(before.bytes_in, after.bytes_in),
        redis_bytes_out: each(before.bytes_out, after.bytes_out),
        redis_cpu_ms: each(before.cpu, after.cpu) * 1000.0,
        members: members.iter().map(|member| judged(&member.finish(), count)).collect(),
    })
}

/// Waits until Redis knows which nodes have members, after those of the previous case have left.
fn settle(bench: &mut Bench, with_members: u64) -> Result<()> {
    let until = Instant::now() + SETTLE;
    while bench.server.subscribers(&bench.prefix, node::ROOM)? != with_members {
        if Instant::now() > until {
            return Err(format!("Redis does not report the expected {with_members} nodes with members"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until a node has sent `count` messages to Redis. Without members, nothing else shows that.
fn depart(node: &mut Peer, count: u64) -> Result<()> {
    let until = Instant::now() + SETTLE;
    loop {
        let counts = node.counts()?;
        if counts.sent + counts.unsent >= count {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(
                "a node's pushes do not reach Redis; set RIPPLECAST_LOG=ripplecast=debug for details"
                    .to_owned(),
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until all members have received all messages.
fn wait(members: &[Member], count: u64) -> Result<()> {
    members.iter().try_for_each(|member| member.wait(count))
}

/// Returns the CPU seconds of each node so far, and the number of messages it has received.
fn costs(nodes: &mut [Peer]) -> Result<Vec<(Option<f64>, u64)>> {
    nodes.iter_mut().map(|node| Ok((Process::cpu_seconds(node.process()), node.counts()?.received))).collect()
}
