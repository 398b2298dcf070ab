//! `rdlm-judge AT_LEAST FILE...`: judges all single locks in these files, of which there have to be
//! so many.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;

use rdlm_judge::history::Outcome;
use rdlm_judge::{Single, Verdict};

#[derive(Default)]
struct Figures {
    histories: u64,
    operations: u64,
    unknown: u64,
    with_fault: u64,
    violated: u64,
    undecided: u64,
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let at_least: u64 = args.next().expect("how many").parse().expect("a number");
    let mut all = 0;
    let mut good = true;
    for path in args {
        let figures = judge(&path);
        let Figures { histories, operations, unknown, with_fault, violated, undecided } = figures;
        println!(
            "{path}: {histories} histories of single locks, {operations} operations, {unknown} of \
             unknown outcome; {with_fault} histories with a fault; {violated} not linearizable, \
             {undecided} undecided"
        );
        all += histories;
        good &= violated == 0 && undecided * 100 <= histories;
    }
    if all < at_least {
        println!("fewer histories than {at_least}");
    }
    if good && all >= at_least { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(path: &str) -> Figures {
    let mut figures = Figures::default();
    let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for line in BufReader::new(file).lines() {
        let history = serde_json::from_str(&line.expect("text")).expect("a history");
        for single in Single::all(history).iter().filter(|single| single.has_grant()) {
            figures.add(single);
        }
    }
    figures
}

impl Figures {
    fn add(&mut self, single: &Single) {
        let unknown = single.calls.iter().filter(|call| matches!(call.outcome, Outcome::Unknown));
        self.histories += 1;
        self.operations += single.calls.len() as u64;
        self.unknown += unknown.count() as u64;
        self.with_fault += u64::from(!single.faults.is_empty());
        match single.judge() {
            Verdict::Linearizable => {}
            Verdict::Violated => {
                self.violated += 1;
                println!("NOT LINEARIZABLE, faults at {:?}:", single.faults);
                single.calls.iter().for_each(|call| println!("    {call:?}"));
            }
            Verdict::Undecided => self.undecided += 1,
        }
    }
}
