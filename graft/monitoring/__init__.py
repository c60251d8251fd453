"""Watching a model in use: have the images changed, and what does that cost in accuracy?"""
