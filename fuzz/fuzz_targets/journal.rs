#![no_main]

dormouse_fuzz::target!(journal::check);
