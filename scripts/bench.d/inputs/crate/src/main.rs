//! Something small that uses its dependencies.

fn main() -> anyhow::Result<()> {
    let matches = clap::Command::new("weighed").arg(clap::Arg::new("text")).get_matches();
    let text = matches.get_one::<String>("text").cloned().unwrap_or_else(|| "[1, 2]".to_owned());
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let table: toml::Table = toml::from_str("a = 1")?;
    println!("{value} {table} {}", humantime::format_duration(std::time::Duration::from_secs(61)));
    Ok(())
}
