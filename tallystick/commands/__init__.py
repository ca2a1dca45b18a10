"""Commands of the consumer's side: account, receipt, epoch, doctor."""
