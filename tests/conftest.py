"""For every test."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background, and children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
