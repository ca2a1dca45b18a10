"""The chain behind the ports: `EvmChain` and `EvmSender` over web3, `MemoryChain` in memory for tests."""
