//! The table of strange resolvers for other servers than ours: `strange serve ADDRESS` is such a resolver, `strange rows` lists
//! the labels, `strange ask SERVER LABEL` prints what a client of SERVER gets and after how many milliseconds.

#[path = "../tests/common/strange.rs"]
mod strange;

use anyhow::{Context, bail};
use strange::{ROWS, Strange, ask};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", address] => {
            let strange = Strange::start(address.parse()?)?;
            println!("{}", strange.address);
            loop {
                std::thread::park();
            }
        }
        ["rows"] => {
            for row in ROWS {
                println!("{}\t{}\t{:?}", row.label, row.does, row.gets);
            }
            Ok(())
        }
        ["ask", server, label] => {
            let row = ROWS.iter().find(|row| row.label == *label).context("no such row")?;
            let (got, took) = ask(server.parse()?, &format!("{}.example", row.label), 1);
            println!("{got:?}\t{}", took.as_millis());
            Ok(())
        }
        _ => bail!("strange serve ADDRESS | rows | ask SERVER LABEL"),
    }
}
