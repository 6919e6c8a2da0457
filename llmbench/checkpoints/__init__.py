"""Which files does a checkpoint's name stand for, can they be used, and how do they get onto a device?"""
