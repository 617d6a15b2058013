#![no_main]

dormouse_fuzz::target!(written::check);
