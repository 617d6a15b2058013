#![no_main]

dormouse_fuzz::target!(properties::store_format);
