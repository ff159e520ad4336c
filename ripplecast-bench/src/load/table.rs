//! The report as text.

use std::fmt::{self, Display, Write as _};

use super::{
    measure::Times,
    report::{Connect, Jitter, Memory, Report, Slow, Storm, Traffic},
};

/// The width of the first column.
const NAME: usize = 15;

/// Formats the report: the settings, then one or a few figures per line.
pub(super) fn table(report: &Report) -> String {
    let mut table = Table(String::new());
    table.title(report);
    if let Some(connect) = &report.connect {
        table.connect(connect);
    }
    if let Some(idle) = &report.idle {
        let cpu = idle
            .server_cpu_percent
            .map_or_else(String::new, |share| format!("server CPU {share:.2} % of a core"));
        table.line("idle", format_args!("{:.1} s  {cpu}", idle.seconds));
    }
    if let Some(traffic) = &report.traffic {
        table.traffic(traffic);
    }
    if let Some(jitter) = &report.jitter {
        table.jitter(jitter);
    }
    if let Some(storm) = &report.storm {
        table.storm(storm);
    }
    if let Some(slow) = &report.slow {
        table.slow(slow);
    }
    if let Some(memory) = &report.memory {
        table.memory(memory);
    }
    let bytes = format_args!("{} received, {} sent", bytes(report.bytes_received), bytes(report.bytes_sent))
        .to_string();
    table.line("bytes", bytes);
    let checks = &report.checks;
    let missing = if checks.missing > 0 { format!("  missing {}", checks.missing) } else { String::new() };
    table.line(
        "checks",
        format_args!(
            "lost {}  out of order {}  dead {}{missing}",
            count(checks.lost),
            count(checks.order_errors),
            count(checks.dead)
        ),
    );
    table.0
}

/// Lines of a name and a value.
struct Table(String);

impl Table {
    fn line(&mut self, name: &str, text: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:NAME$}{text}");
    }

    fn times(&mut self, name: &str, times: Option<&Times>) {
        if let Some(times) = times {
            let Times { p50, p90, p99, p999, max, .. } = *times;
            let [p50, p90, p99, p999, max] =
                [p50, p90, p99, p999, max].map(|micros| Micros(micros).to_string());
            self.line(
                name,
                format_args!("p50 {p50:>8}  p90 {p90:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {max:>8}"),
            );
        }
    }

    fn title(&mut self, report: &Report) {
        let interrupted = if report.interrupted { "  (interrupted)" } else { "" };
        let pace = match (report.rate, report.window) {
            (Some(rate), _) => format!("  {rate} messages/s"),
            (None, Some(window)) => format!("  window {window}"),
            (None, None) => String::new(),
        };
        let connections = count(report.connections as u64);
        let (url, mode, size) = (&report.url, report.mode, report.size);
        let _ =
            writeln!(self.0, "{url}  {mode}  {connections} connections  {size} bytes{pace}{interrupted}\n");
    }

    fn connect(&mut self, connect: &Connect) {
        let rate = count(connect.per_second as u64);
        let opened = count(connect.opened as u64);
        self.line(
            "connections",
            format_args!("{opened} in {:.3} s  {rate}/s{}", connect.seconds, again(connect.retries)),
        );
        self.times("handshake", connect.handshake_us.as_ref());
        if let Some(each) = connect.server_cpu_us_each {
            self.line("server CPU", format_args!("{each:.1} us per connection"));
        }
    }

    fn traffic(&mut self, traffic: &Traffic) {
        let deliveries = count(traffic.deliveries);
        let rate = count(traffic.deliveries_per_second as u64);
        let (messages, payload) = (count(traffic.messages), bytes(traffic.payload_bytes));
        self.line("messages", messages);
        self.line(
            "deliveries",
            format_args!("{deliveries} in {:.3} s  {rate}/s  {payload}", traffic.seconds),
        );
        self.times("latency", traffic.latency_us.as_ref());
        self.times("to the last", traffic.last_us.as_ref());
        let share = |cpu: f64| format!("{:.0} % of a core", cpu / traffic.seconds.max(1e-9) * 100.0);
        if let (Some(each), Some(cpu)) = (traffic.server_cpu_seconds_per_million, traffic.server_cpu_seconds)
        {
            self.line("server CPU", format_args!("{each:.3} s per million deliveries  {}", share(cpu)));
        }
        if let Some(cpu) = traffic.generator_cpu_seconds {
            self.line("generator CPU", share(cpu));
        }
    }

    fn jitter(&mut self, jitter: &Jitter) {
        let (cuts, recovered) = (count(jitter.cuts), count(jitter.recovered));
        self.line("cuts", format_args!("{cuts}, recovered {recovered}{}", again(jitter.retries)));
        self.times("away", jitter.away_us.as_ref());
        self.times("reconnect", jitter.reconnect_us.as_ref());
        self.times("recovery", jitter.recovery_us.as_ref());
        let (missed, half, most) = (count(jitter.missed), jitter.missed_each_p50, jitter.missed_each_max);
        self.line("missed", format_args!("{missed} while disconnected  each p50 {half}  max {most}"));
    }

    fn storm(&mut self, storm: &Storm) {
        let (back, rate) = (count(storm.reconnected as u64), count(storm.per_second as u64));
        self.line(
            "storm",
            format_args!("{back} back in {:.3} s  {rate}/s{}", storm.seconds, again(storm.retries)),
        );
        self.times("back after", storm.back_us.as_ref());
        if let Some(seconds) = storm.all_receive_seconds {
            self.line("all receive", format_args!("after {seconds:.3} s"));
        }
        if let Some(each) = storm.server_cpu_us_each {
            self.line("server CPU", format_args!("{each:.1} us per connection"));
        }
    }

    fn slow(&mut self, slow: &Slow) {
        let Slow { connections, bytes_per_second, read, left_out, closed_by_server } = slow;
        self.line("slow readers", format_args!("{connections} at {bytes_per_second} bytes/s"));
        self.line(
            "",
            format_args!("read {read}  left out {left_out}  closed by the server {closed_by_server}"),
        );
    }

    fn memory(&mut self, memory: &Memory) {
        let mut text = String::new();
        if let Some(idle) = memory.idle_kib_per_connection {
            let _ = write!(text, "{idle:.2} KiB per idle connection  ");
        }
        if let Some(after) = memory.after_message_kib_per_connection {
            let _ = write!(text, "{after:.2} KiB after a message  ");
        }
        let _ = write!(text, "peak {}", bytes(memory.peak_kib << 10));
        self.line("server memory", text);
    }
}

/// Formats the number of repeated attempts, if any.
fn again(retries: u64) -> String {
    if retries == 0 { String::new() } else { format!("  {} attempts repeated", count(retries)) }
}

/// Microseconds, in the most readable unit.
pub(crate) struct Micros(pub(crate) f64);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            micros if micros < 1000.0 => write!(f, "{micros:.0} us"),
            micros if micros < 100_000.0 => write!(f, "{:.2} ms", micros / 1e3),
            micros if micros < 1_000_000.0 => write!(f, "{:.0} ms", micros / 1e3),
            micros => write!(f, "{:.2} s", micros / 1e6),
        }
    }
}

/// Formats a number with thousands separators.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats bytes in the most readable unit.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [12.0, 1234.5, 250_000.0, 2e6].map(|us| Micros(us).to_string()),
            ["12 us", "1.23 ms", "250 ms", "2.00 s"]
        );
        assert_eq!([100, 20_480, 1 << 24].map(bytes), ["100 bytes", "20.0 KiB", "16.0 MiB"]);
    }

    #[test]
    fn an_early_end_has_a_table_too() {
        let text = table(&Report { mode: "fanout", interrupted: true, ..Report::default() });
        assert!(text.contains("(interrupted)") && text.contains("lost 0"), "{text}");
    }
}
