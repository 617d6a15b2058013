#![no_main]

dormouse_fuzz::target!(properties::pack);
