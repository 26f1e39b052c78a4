//! Decides what is kept of a hook's output: lines of bounded length, the first mebibyte of them as they
//! come, of the rest only the end; and a few last lines for the message of a failure.

use std::collections::VecDeque;

/// Longest line, bytes; the rest of a longer one is counted.
pub const MAX_LINE: usize = 8 << 10;
/// Bytes that are passed on as they come.
const HEAD: usize = 1 << 20;
/// Bytes of the end that are passed on when there was more.
const TAIL: usize = 64 << 10;
/// Lines for the message of a failure.
const LAST: usize = 12;

/// Splits one stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    beyond: usize,
}

impl Lines {
    /// Takes a chunk; gives each line that it ends.
    pub fn feed(&mut self, chunk: &[u8], mut give: impl FnMut(String)) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.add(&rest[..end]);
            give(self.take());
            rest = &rest[end + 1..];
        }
        self.add(rest);
    }

    /// What is left when the stream ends.
    pub fn end(&mut self, give: impl FnOnce(String)) {
        if !self.line.is_empty() || self.beyond > 0 {
            give(self.take());
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.line.len();
        let (kept, beyond) = bytes.split_at(bytes.len().min(room));
        self.line.extend_from_slice(kept);
        self.beyond += beyond.len();
    }

    fn take(&mut self) -> String {
        let beyond = std::mem::take(&mut self.beyond);
        let mut line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.ends_with('\r') {
            line.pop();
        }
        if beyond > 0 {
            line.push_str(&format!(" … ({beyond} bytes more)"));
        }
        line
    }
}

/// A line, and whether it is of standard error.
pub type Line = (bool, String);

/// Bounds what both streams of a process come to.
#[derive(Debug)]
pub struct Kept {
    head: usize,
    tail: VecDeque<Line>,
    tail_bytes: usize,
    left_out: (usize, usize),
    last: VecDeque<Line>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { head: HEAD, tail: VecDeque::new(), tail_bytes: 0, left_out: (0, 0), last: VecDeque::new() }
    }
}

impl Kept {
    /// Takes a line; it comes back if it is of the beginning, and is to be passed on.
    pub fn push(&mut self, stderr: bool, line: String) -> Option<Line> {
        if !line.trim().is_empty() {
            if self.last.len() == LAST {
                self.last.pop_front();
            }
            self.last.push_back((stderr, line.clone()));
        }
        let len = line.len() + 1;
        if len <= self.head {
            self.head -= len;
            return Some((stderr, line));
        }
        self.head = 0;
        self.tail_bytes += len;
        self.tail.push_back((stderr, line));
        while self.tail_bytes > TAIL {
            let Some((_, line)) = self.tail.pop_front() else { break };
            self.tail_bytes -= line.len() + 1;
            self.left_out.0 += 1;
            self.left_out.1 += line.len() + 1;
        }
        None
    }

    /// What is to be passed on at the end: how much was left out, and what followed.
    pub fn end(&mut self) -> Vec<Line> {
        let (lines, bytes) = self.left_out;
        let said = (lines > 0).then(|| (true, format!("… {lines} lines ({bytes} bytes) of output left out here …")));
        said.into_iter().chain(std::mem::take(&mut self.tail)).collect()
    }

    /// The last lines.
    pub fn last(self) -> Vec<Line> {
        self.last.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_never_longer_than_their_bound() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        lines.feed(b"one\r\ntw", |line| got.push(line));
        lines.feed(b"o\n\xff\xfe\0", |line| got.push(line));
        lines.end(|line| got.push(line));
        assert_eq!(got, ["one", "two", "\u{fffd}\u{fffd}\0"]);
        got.clear();
        for _ in 0..1024 {
            lines.feed(&[b'x'; 1024], |line| got.push(line));
        }
        assert!(got.is_empty() && lines.line.len() == MAX_LINE, "a megabyte without a line's end takes 8 KiB");
        lines.end(|line| got.push(line));
        assert!(got[0].ends_with(&format!("x … ({} bytes more)", (1 << 20) - MAX_LINE)), "{}", got[0].len());
    }

    #[test]
    fn of_endless_output_the_beginning_and_the_end_stay() {
        let mut kept = Kept::default();
        let push = |n: usize| kept.push(false, format!("line {n} {}", "x".repeat(80)));
        let mut got: Vec<String> = (0..100_000).filter_map(push).map(|(_, line)| line).collect();
        let head = got.len();
        got.extend(kept.end().into_iter().map(|(_, line)| line));
        assert!(got[0].starts_with("line 0 ") && got[got.len() - 1].starts_with("line 99999 "));
        assert!(got[head].starts_with("… ") && got[head].contains("left out here"), "{}", got[head]);
        let bytes: usize = got.iter().map(|line| line.len() + 1).sum();
        assert!(bytes < HEAD + TAIL + 100, "{bytes}");
        let last = kept.last();
        assert_eq!(last.len(), LAST);
        assert!(last[LAST - 1].1.starts_with("line 99999 "));
    }
}
