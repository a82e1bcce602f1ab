"""The notifier: sends messages about notices to the targets of NOTIFY_URLS. It alone reaches the internet for that."""
