"""Ranks: their world, launching, heartbeats, rendezvous. The only room that imports Horovod."""
