"""(room card)"""
