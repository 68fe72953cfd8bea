"""Journeys of a browser with each pair of options: what two options do together, and none alone.

`journeys` are what a browser and an application do. `values` are what options can be. `world` makes
an application of some values, and notes what a journey shows of it. `traces` compares.

A journey with two values has to show what it shows with one of them, but for what the other one
changes by itself (`traces.merged`). What a value changes by itself stands in `effects`, each with
the sentence of docs/ that says so.
"""
