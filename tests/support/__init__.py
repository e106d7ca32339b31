"""What tests of several aims share: engines with checkers behind them, control over batches, a naive store."""
