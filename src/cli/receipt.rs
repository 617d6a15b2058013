//! What a seal did, printed.

use super::exit::{Failure, Outcome};
use super::output;
use super::units::{ByteSize, count};
use crate::workspace::Receipt;

/// Prints a daemon's receipt: as it came with `--json`, otherwise a few lines.
pub fn print(json: bool, value: &serde_json::Value) -> Outcome {
    if json {
        return output::facts(true, value, "");
    }
    let receipt: Receipt = serde_json::from_value(value.clone())
        .map_err(|error| Failure::internal(format!("the daemon's receipt: {error}")))?;
    output::print(&text(&receipt))
}

fn text(receipt: &Receipt) -> String {
    let mut lines = Vec::new();
    let snapshot = receipt.snapshot.as_deref().unwrap_or("none");
    let changed = if receipt.changed { "sealed" } else { "unchanged since" };
    lines.push(format!("{}: {changed} snapshot {snapshot}", receipt.workspace));
    lines.push(format!("  {}, {}", count(receipt.inodes, "file"), ByteSize(receipt.bytes)));
    let packs = count(receipt.data_packs + receipt.tree_packs, "pack");
    lines.push(format!(
        "  {packs} written ({}), {} confirmed in the store, {:.1} s",
        ByteSize(receipt.bytes_uploaded),
        receipt.packs_confirmed,
        receipt.seconds
    ));
    if receipt.released {
        lines.push("  everything is in the store; the lease is free".to_owned());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_snapshot_counts_and_confirmation() {
        let receipt = Receipt {
            workspace: "w".into(),
            snapshot: Some("ab".into()),
            changed: true,
            released: true,
            inodes: 3,
            bytes: 2048,
            data_packs: 2,
            tree_packs: 1,
            packs_confirmed: 3,
            seconds: 1.25,
            ..Receipt::default()
        };
        let text = text(&receipt);
        for part in ["w: sealed snapshot ab", "3 files, 2.0 KiB", "3 confirmed", "lease is free"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
